"""The parts of benchmarks/accelerator.py.

Each library works in a process of its own (jax_worker.py, torch_worker.py), so
that the report survives whatever ends one of them, and so that neither loads
the CUDA libraries that the other brings. workers.py is both ends of the pipe.
"""
