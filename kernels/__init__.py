"""The CUDA C++ sources (``*.cu`` entry points, ``*.cuh`` device helpers) as package data.

Nothing here is Python: the sources are found, compiled and launched by :mod:`pygan.bindings`.
"""
