"""Run-time patches of the engines: one function each, in the module of the engine that it is for.

Each patch names the version, the file and the line that make it necessary. For each, tests/launch/test_patches.py has a
test that fails once the engine no longer needs it. `cpu` holds the patches for a machine without a GPU.
"""

from importlib import metadata

from rewards.errors import UserError

# The versions that the patches are for. pyproject.toml installs the same.
VERSIONS = {
    "llamafactory": "0.9.5",
    "ray": "2.60.0",
    "torch": "2.11.0",
    "transformers": "5.9.0",
    "verl": "0.9.1",
    "vllm": "0.24.0",
}


class VersionError(UserError):
    """An engine is not installed in the version that the patches are for."""


def check_versions() -> None:
    """Compare the installed engines with `VERSIONS`; reads metadata only.

    Raises:
        VersionError: naming the engine, both versions and what to do.
    """
    for engine, patched in VERSIONS.items():
        installed = _installed(engine)
        if installed is None:
            raise VersionError(f"{engine} is not installed: make env installs {patched}")
        if installed.split("+")[0] != patched:  # "+cpu" and the like name a build, not a version
            raise VersionError(
                f"{engine} {installed} is installed, the patches are for {patched}: make env installs it. "
                "For a new version, see launch/engines/patches"
            )


def _installed(engine: str) -> str | None:
    for distribution in (engine, f"{engine}-cpu"):  # vLLM without CUDA is a package of its own
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def apply() -> None:
    """Have every patch run right after the import of its module, whoever imports it; `cpu.apply` is separate."""
    from launch.engines.patches import ray, transformers, verl, vllm

    for module in (ray, transformers, verl, vllm):
        module.apply()
