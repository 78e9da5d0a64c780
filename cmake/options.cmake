# What can be chosen, by -D or by an environment variable of the same name.
function(fastgrad_option name default doc)
  if(DEFINED ENV{${name}} AND NOT "$ENV{${name}}" STREQUAL "")
    set(default "$ENV{${name}}")
  endif()
  set(${name} "${default}" CACHE STRING "${doc}")
endfunction()

fastgrad_option(FASTGRAD_CUDA auto "CUDA kernels: auto (when a toolkit is found), on or off")
fastgrad_option(FASTGRAD_CUDA_ARCHS "80;90a" "GPU architectures; the highest portable one is also kept as PTX")
fastgrad_option(FASTGRAD_CUDA_REPORT OFF "Keep ptxas's account of every CUDA kernel for tools/check_cuda.py")
fastgrad_option(FASTGRAD_EMULATOR OFF "Also compile the CUDA kernels for the CPU (for tests)")
fastgrad_option(FASTGRAD_CCACHE ON "Compile through ccache where it is installed")

string(TOLOWER "${FASTGRAD_CUDA}" FASTGRAD_CUDA_CHOICE)
if(FASTGRAD_CUDA_CHOICE MATCHES "^(1|true|yes)$")
  set(FASTGRAD_CUDA_CHOICE on)
elseif(FASTGRAD_CUDA_CHOICE MATCHES "^(0|false|no)$")
  set(FASTGRAD_CUDA_CHOICE off)
elseif(NOT FASTGRAD_CUDA_CHOICE MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "FASTGRAD_CUDA is \"${FASTGRAD_CUDA}\": use auto, on or off.")
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
  message(FATAL_ERROR "fastgrad needs g++ 11 or newer (C++20); ${CMAKE_CXX_COMPILER} is ${CMAKE_CXX_COMPILER_VERSION}.")
endif()

set(WARNINGS -Wall -Wextra)
# __FILE__ in error messages, without the folder of the machine that built.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=>)

find_program(CCACHE ccache)
if(FASTGRAD_CCACHE AND CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The sloppiness is what ccache asks for where a precompiled header is in use.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endif()
