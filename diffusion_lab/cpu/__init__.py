"""Code for CPUs alone: convolutions and the allocator of the C library."""
