#include "pinned_memory.h"

#include "config.h"
#include "stats.h"

namespace simacc {

namespace {

constexpr size_t kPage = 4096;

struct PinnedBlock {
  char* start;
  size_t size;
  bool registered;  // the caller's own memory
  std::set<Stream*> used_by;
  std::vector<CompletionPtr> pending;
};

// All under world().
struct PinnedBlocks {
  std::map<uintptr_t, PinnedBlock*> all;
  std::map<size_t, std::vector<PinnedBlock*>> free;
  std::vector<PinnedBlock*> deferred;
};

PinnedBlocks& pinned_blocks() {
  static auto* the_blocks = new PinnedBlocks();
  return *the_blocks;
}

PinnedBlock* find_pinned(uintptr_t address) {
  auto after = pinned_blocks().all.upper_bound(address);
  if (after == pinned_blocks().all.begin()) return nullptr;
  auto* block = std::prev(after)->second;
  return address < reinterpret_cast<uintptr_t>(block->start) + block->size ? block : nullptr;
}

void release_pinned(PinnedBlock* block) {
  if (config().poison != kPoisonOff) memset(block->start, 0xDD, block->size);
  pinned_blocks().free[block->size].push_back(block);
}

void free_pinned(void* pointer) {
  if (!pointer) return;
  WorldLock lock(world());
  auto* block = pinned_blocks().all.at(reinterpret_cast<uintptr_t>(pointer));
  count("pinned_live_bytes", -static_cast<int64_t>(block->size));
  forget_accesses(reinterpret_cast<uintptr_t>(pointer), this_host_thread().clock);
  if (block->used_by.empty()) return release_pinned(block);
  for (auto* stream : std::exchange(block->used_by, {})) block->pending.push_back(mark(*stream));
  pinned_blocks().deferred.push_back(block);
}

void release_deferred_pinned() {
  std::erase_if(pinned_blocks().deferred, [](PinnedBlock* block) {
    if (!std::ranges::all_of(block->pending, [](auto& use) { return use->is_complete(); })) return false;
    for (auto& use : block->pending) forget_accesses(reinterpret_cast<uintptr_t>(block->start), use->clock);
    block->pending.clear();
    release_pinned(block);
    return true;
  });
}

PinnedBlock* take_free(size_t size) {
  WorldLock lock(world());
  release_deferred_pinned();
  auto& candidates = pinned_blocks().free[size];
  if (candidates.empty()) return nullptr;
  auto* block = candidates.back();
  candidates.pop_back();
  return block;
}

// What cudaHostAlloc does: slow, and it may wait for everything.
PinnedBlock* pin_new(size_t size) {
  refuse_while_capturing("pinning memory");
  TORCH_CHECK(!should_fail(config().fail_pinned_after), "simacc: injected failure of a pinned allocation");
  if (config().pinned_alloc_syncs != 0) {
    for (int device = 0; device < device_count(); device++) synchronize_device(device);
  }
  {
    WithoutGil without_gil;
    pause(config().pinned_alloc_latency);
  }
  void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(start != MAP_FAILED, "simacc: the host has no ", size, " bytes to pin");
  WorldLock lock(world());
  auto* block = new PinnedBlock{static_cast<char*>(start), size, false, {}, {}};
  pinned_blocks().all[reinterpret_cast<uintptr_t>(start)] = block;
  count("pinned_allocs");
  count("pinned_reserved_bytes", static_cast<int64_t>(size));
  return block;
}

struct PinnedMemory final : at::HostAllocator {
  at::DataPtr allocate(size_t size) override {
    if (size == 0) return {nullptr, nullptr, &free_pinned, at::Device(at::kCPU)};
    size_t rounded = kPage;  // to a power of two, as CachingHostAllocatorImpl does: large slabs can waste nearly half
    while (rounded < size) rounded <<= 1;
    auto* block = take_free(rounded);
    if (!block) block = pin_new(rounded);
    count("pinned_live_bytes", static_cast<int64_t>(rounded));
    return {block->start, block->start, &free_pinned, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* destination, const void* source, size_t size) const override {
    memcpy(destination, source, size);
  }
  bool record_event(void* pointer, void*, c10::Stream stream) override {
    if (!is_pinned(pointer)) return false;
    note_use(pointer, stream_of(stream));
    return true;
  }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
};

}  // namespace

at::HostAllocator& pinned_allocator() {
  static auto* allocator = new PinnedMemory();
  return *allocator;
}

bool is_pinned(const void* pointer) {
  WorldLock lock(world());
  return find_pinned(reinterpret_cast<uintptr_t>(pointer)) != nullptr;
}

std::optional<uintptr_t> pinned_block(uintptr_t address) {
  auto* block = find_pinned(address);
  return block ? std::optional(reinterpret_cast<uintptr_t>(block->start)) : std::nullopt;
}

void note_use(const void* pointer, Stream& stream) {
  WorldLock lock(world());
  auto* block = find_pinned(reinterpret_cast<uintptr_t>(pointer));
  if (block && !block->registered) block->used_by.insert(&stream);
}

void register_host_memory(uintptr_t start, size_t size) {
  WorldLock lock(world());
  TORCH_CHECK_VALUE(start % kPage == 0, "simacc: only whole pages can be registered; this starts within one");
  TORCH_CHECK(!find_pinned(start), "simacc: this memory is pinned already");
  TORCH_CHECK(!should_fail(config().fail_pinned_after), "simacc: injected failure of a registration");
  pinned_blocks().all[start] = new PinnedBlock{reinterpret_cast<char*>(start), size, true, {}, {}};
  count("host_registers");
}

void unregister_host_memory(uintptr_t start) {
  WorldLock lock(world());
  auto found = pinned_blocks().all.find(start);
  TORCH_CHECK_VALUE(found != pinned_blocks().all.end() && found->second->registered,
                    "simacc: this memory is not registered");
  auto& thread = this_host_thread();
  record_accesses(thread.id, thread.clock, {{start, start + found->second->size, true}}, "host_unregister");
  forget_block(start);
  delete found->second;
  pinned_blocks().all.erase(found);
}

}  // namespace simacc
