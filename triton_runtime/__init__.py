"""The embedded Triton: starts, watches and ends one NVIDIA Triton server from the ``nvidia-pytriton`` wheel.

Run it with the interpreter of the Triton environment::

    python -m triton_runtime --model-repository DIR

The launcher uses the standard library only. It prints one JSON line when Triton answers and stays as its
supervisor until one of both ends.
"""
