"""The only place that touches CUDA: compilation, kernels, arrays, streams and the CPU driver."""
