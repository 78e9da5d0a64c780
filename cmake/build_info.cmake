# fastgrad/_build_info.py, which the package reads before it imports _C, and the summary of the configuration.
list(JOIN CPU_BACKENDS " " cpu_backends)
if(EMULATOR_BUILT)
  set(emulator "on")
  set(emulator_python True)
else()
  set(emulator "off")
  set(emulator_python False)
endif()
if(CUDA_BUILT)
  set(cuda_python "\"${NVCC_VERSION}\"")
  list(JOIN archs "\", \"" arch_list)
  set(archs_python "(\"${arch_list}\",)")
else()
  set(cuda_python None)
  set(archs_python "()")
endif()
list(JOIN CPU_BACKENDS "\", \"" backend_list)
file(CONFIGURE OUTPUT ${FASTGRAD_OUTPUT}/_build_info.py @ONLY CONTENT [[
"""What this build of fastgrad._C was made from. Written by the build."""

VERSION = "@FASTGRAD_VERSION@"
TORCH_VERSION = "@TORCH_VERSION@"
CPU_BACKENDS = ("@backend_list@",)
CUDA_VERSION = @cuda_python@
CUDA_ARCHS = @archs_python@
CUDA_STATUS = "@CUDA_STATUS@"
EMULATOR = @emulator_python@
COMPILER = "@CMAKE_CXX_COMPILER_ID@ @CMAKE_CXX_COMPILER_VERSION@"
BUILD_TYPE = "@CMAKE_BUILD_TYPE@"
]])
message(STATUS "
  fastgrad ${FASTGRAD_VERSION}
    torch      ${TORCH_VERSION} of ${PYTHON}
    compiler   ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}, ${CMAKE_BUILD_TYPE}
    CPU        ${cpu_backends}
    CUDA       ${CUDA_STATUS}
    emulator   ${emulator}
")
