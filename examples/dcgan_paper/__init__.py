"""The experiments of the DCGAN paper on trained networks, a module each; ``__main__`` runs them.

A. Radford, L. Metz and S. Chintala, "Unsupervised representation learning with deep convolutional
generative adversarial networks" (2015, arXiv:1511.06434).
"""
