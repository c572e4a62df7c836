"""What the machine has: devices, OpenGL, cores and memory, and how they are set up."""
