"""What is done differently on a CPU: convolutions and the allocator of the C library."""
