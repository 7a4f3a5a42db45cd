"""The optional C++ engine of the meta-gradient; everything else is in pyproject.toml.

It is built where torch is installed already (`pip install --no-build-isolation`, `make setup`) and
a compiler is found. Elsewhere it is left out, and the meta-gradient runs in torch.
"""

import platform

from setuptools import Extension, setup

try:
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths
except ImportError:
    extensions = []
else:
    x86 = platform.machine() in ("x86_64", "AMD64")
    extensions = [
        Extension(
            "baselines.native.engine",
            ["baselines/native/meta_gradient.cpp"],
            depends=["baselines/native/matrices.h"],
            include_dirs=include_paths(),
            library_dirs=library_paths(),
            libraries=["torch_cpu", "c10"],
            extra_compile_args=[
                "-O3",
                "-std=c++20",
                "-g0",
                *(["-march=x86-64-v3"] if x86 else []),
                f'-DTORCH="{torch.__version__.partition("+")[0]}"',
            ],
            language="c++",
            optional=True,  # no compiler, or a torch with other headers: install without it
        )
    ]

setup(ext_modules=extensions)
