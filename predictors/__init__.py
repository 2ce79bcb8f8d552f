"""What computes scores from a model's file where onnxruntime does not: one module a backend of Triton.

Triton's Python-based backends run it, and so does a training's proof: what was proved is what answers. It knows numpy and
the one library that reads the file, each in the versions of both environments.
"""
