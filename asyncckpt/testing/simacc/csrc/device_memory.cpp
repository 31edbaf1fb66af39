#include "device_memory.h"

#include "config.h"
#include "stats.h"

namespace simacc {

namespace {

// -- address space --

// Two reservations of one size: the first is never accessible, the second is where the bytes are. Since no protection
// is ever toggled, a stray dereference on the host faults even while a kernel runs on another thread.
struct AddressSpace {
  char* device = nullptr;
  char* kernel = nullptr;
  size_t size = 0;
  size_t used = 0;
};

AddressSpace space;

char* reserve(size_t size, int protection) {
  void* start = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(start != MAP_FAILED, "simacc: cannot reserve ", size, " bytes; make SIMACC_ARENA_GB smaller");
  return static_cast<char*>(start);
}

// -- blocks --

struct Block {
  char* start;
  size_t size;
  Stream* owner;              // the current stream when it was first handed out
  std::set<Stream*> used_by;  // other streams, as record_stream() told
  std::vector<CompletionPtr> pending;
};

// All under world().
struct Blocks {
  std::map<uintptr_t, Block*> all;
  std::map<std::pair<Stream*, size_t>, std::vector<Block*>> free;
  std::vector<Block*> deferred;       // freed, and still used by other streams
  std::map<int, int64_t> live_bytes;  // by device
  int64_t live_total = 0;
};

Blocks& blocks() {
  static auto* the_blocks = new Blocks();
  return *the_blocks;
}

Block* find_block(uintptr_t address) {
  auto after = blocks().all.upper_bound(address);
  if (after == blocks().all.begin()) return nullptr;
  auto* block = std::prev(after)->second;
  return address < reinterpret_cast<uintptr_t>(block->start) + block->size ? block : nullptr;
}

void count_live(Block* block, int64_t sign) {
  auto size = sign * static_cast<int64_t>(block->size);
  blocks().live_bytes[block->owner->device] += size;
  blocks().live_total += size;
  count("live_bytes", size);
  raise_to("peak_bytes", blocks().live_total);
}

// From here on anything may overwrite the block, in the order of the stream that owns it.
void poison(Block* block, const char* why) {
  auto* bytes = static_cast<char*>(kernel_address(block->start));
  auto low = reinterpret_cast<uintptr_t>(block->start);
  auto overwrite = [bytes, size = block->size] { memset(bytes, 0xCB, size); };
  enqueue(*block->owner,
          {.kind = "", .name = why, .ranges = {{low, low + block->size, true}}, .run = std::move(overwrite)});
}

void release(Block* block) {
  if (config().poison == kPoisonAtFree) poison(block, "free of block");
  blocks().free[{block->owner, block->size}].push_back(block);
}

void free_device_memory(void* pointer) {
  if (!pointer) return;
  WorldLock lock(world());
  auto* block = blocks().all.at(reinterpret_cast<uintptr_t>(pointer));
  count_live(block, -1);
  // Whoever gets the block next gets it from the allocator: what this thread has seen is before that.
  forget_accesses(reinterpret_cast<uintptr_t>(pointer), this_host_thread().clock);
  block->used_by.erase(block->owner);  // the stream that owns it is a queue: reuse in its order is safe at once
  if (block->used_by.empty()) return release(block);
  for (auto* stream : std::exchange(block->used_by, {})) block->pending.push_back(mark(*stream));
  blocks().deferred.push_back(block);
}

// Deferred blocks whose other streams are done become free. The host learns nothing by it: a program must not be
// right only because the allocator happened to look.
void release_deferred() {
  std::erase_if(blocks().deferred, [](Block* block) {
    if (!std::ranges::all_of(block->pending, [](auto& use) { return use->is_complete(); })) return false;
    for (auto& use : block->pending) forget_accesses(reinterpret_cast<uintptr_t>(block->start), use->clock);
    block->pending.clear();
    release(block);
    return true;
  });
}

Block* cut_block(size_t size, Stream& owner) {
  TORCH_CHECK_WITH(OutOfMemoryError, space.used + size <= space.size,
                   "simacc: the address space is used up; make SIMACC_ARENA_GB larger");
  auto* block = new Block{space.device + space.used, size, &owner, {}, {}};
  space.used += size;
  blocks().all[reinterpret_cast<uintptr_t>(block->start)] = block;
  return block;
}

void* allocate_device_memory(size_t size) {
  if (size == 0) return nullptr;
  WorldLock lock(world());
  release_deferred();
  size = (size + 511) / 512 * 512;
  int device = current_device();
  double capacity = config().capacity;
  TORCH_CHECK_WITH(OutOfMemoryError, capacity < 0 || blocks().live_bytes[device] + size <= capacity,
                   "simacc out of memory: sim:", device, " cannot hold another ", size, " bytes");
  auto& stream = current_stream(device);
  auto& candidates = blocks().free[{&stream, size}];
  Block* block;
  if (candidates.empty()) {
    block = cut_block(size, stream);
  } else {
    block = candidates.back();  // the last one freed: a premature reuse is as likely as can be
    candidates.pop_back();
    count("block_reuse");
    if (config().poison != kPoisonOff) poison(block, "reuse of freed block");
  }
  count_live(block, +1);
  return block->start;
}

struct DeviceMemory final : c10::DeviceAllocator {
  at::DataPtr allocate(size_t size) override {
    void* start = allocate_device_memory(size);
    auto device = static_cast<c10::DeviceIndex>(current_device());
    return {start, start, &free_device_memory, c10::Device(c10::kPrivateUse1, device)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &free_device_memory; }
  void copy_data(void* destination, const void* source, size_t size) const override {
    auto to = reinterpret_cast<uintptr_t>(destination);
    auto from = reinterpret_cast<uintptr_t>(source);
    std::vector<Range> ranges{{from, from + size, false}, {to, to + size, true}};
    auto copy = [to = kernel_address(destination), from = kernel_address(source), size] { memcpy(to, from, size); };
    enqueue(current_stream(current_device()), {.kind = "d2d",
                                               .name = "copy_data",
                                               .bytes = static_cast<int64_t>(size),
                                               .ranges = std::move(ranges),
                                               .run = std::move(copy)});
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const at::DataPtr& pointer, c10::Stream stream) override {
    WorldLock lock(world());
    if (auto* block = find_block(reinterpret_cast<uintptr_t>(pointer.get()))) {
      block->used_by.insert(&stream_of(stream));
      count("record_stream");
    }
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    WorldLock lock(world());
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = blocks().live_bytes[device];
    stats.allocated_bytes[0].peak = simacc::stats()["peak_bytes"];
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    WorldLock lock(world());
    size_t total = config().capacity < 0 ? space.size : static_cast<size_t>(config().capacity);
    return {total - blocks().live_bytes[device], total};
  }
};

}  // namespace

void reserve_device_memory() {
  auto* given = std::getenv("SIMACC_ARENA_GB");
  space.size = static_cast<size_t>(given ? std::atoi(given) : 32) << 30;
  space.device = reserve(space.size, PROT_NONE);
  space.kernel = reserve(space.size, PROT_READ | PROT_WRITE);
}

bool is_device_pointer(const void* pointer) { return space.device <= pointer && pointer < space.device + space.size; }

void* kernel_address(const void* pointer) {
  return pointer ? space.kernel + (static_cast<const char*>(pointer) - space.device) : nullptr;
}

std::optional<uintptr_t> device_block(uintptr_t address) {
  if (!is_device_pointer(reinterpret_cast<void*>(address))) return std::nullopt;
  auto* block = find_block(address);
  return block ? std::optional(reinterpret_cast<uintptr_t>(block->start)) : std::nullopt;
}

int device_of(const void* pointer) {
  WorldLock lock(world());
  auto* block = find_block(reinterpret_cast<uintptr_t>(pointer));
  TORCH_CHECK(block, "simacc: this pointer is to no memory of a device");
  return block->owner->device;
}

c10::DeviceAllocator& device_allocator() {
  static auto* allocator = new DeviceMemory();
  return *allocator;
}

void resize_storage(const c10::Storage& storage, size_t size) {
  auto* impl = storage.unsafeGetStorageImpl();
  c10::DeviceGuard guard(impl->device());
  auto memory = device_allocator().allocate(size);
  if (size_t kept = std::min(size, impl->nbytes())) device_allocator().copy_data(memory.get(), impl->data(), kept);
  impl->set_data_ptr_noswap(std::move(memory));
  impl->set_nbytes(size);
}

}  // namespace simacc
