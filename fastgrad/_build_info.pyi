VERSION: str
TORCH_VERSION: str
CPU_BACKENDS: tuple[str, ...]
CUDA_VERSION: str | None
CUDA_ARCHS: tuple[str, ...]
CUDA_STATUS: str
EMULATOR: bool
COMPILER: str
BUILD_TYPE: str
