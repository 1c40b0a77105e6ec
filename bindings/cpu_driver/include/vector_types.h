// Part of the vocabulary that the nvcc stand-in includes by itself.
