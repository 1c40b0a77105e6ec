"""The only place that touches CUDA: compilation, kernels, device arrays, streams, and the CPU driver."""
