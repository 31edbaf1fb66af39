"""Distributed: how the ranks of one training job agree about saves."""
