// Which table serves which device. Compiled with baseline flags: the CPU is asked here.
#include <atomic>

#include "common.h"

namespace fastgrad {
#define FASTGRAD_TABLE(space) \
  namespace space {           \
  extern const Backend table; \
  }
FASTGRAD_TABLE(cpu_default)
FASTGRAD_TABLE(cpu_avx2)
FASTGRAD_TABLE(cpu_avx512)
FASTGRAD_TABLE(cuda)
FASTGRAD_TABLE(cuda_emulated)
#undef FASTGRAD_TABLE
}  // namespace fastgrad

namespace fastgrad::ops {
namespace {

// What this build has and this CPU (and OS: __builtin_cpu_supports asks xgetbv too) can run, the fastest first; the
// emulator last.
std::vector<const Backend*> cpu_tables() {
  std::vector<const Backend*> tables;
#ifdef FASTGRAD_HAS_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    tables.push_back(&cpu_avx512::table);
#endif
#ifdef FASTGRAD_HAS_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    tables.push_back(&cpu_avx2::table);
#endif
  tables.push_back(&cpu_default::table);
#ifdef FASTGRAD_HAS_EMULATOR
  tables.push_back(&cuda_emulated::table);
#endif
  return tables;
}

const Backend* find_cpu_table(const std::string& name) {
  for (const Backend* b : cpu_tables())
    if (name == b->name) return b;
  std::string there_are;
  for (const std::string& b : list_backends()) there_are += " " + b;
  TORCH_CHECK_VALUE(false, "fastgrad: no backend \"", name, "\" on this machine; there are:", there_are);
}

std::atomic<const Backend*>& cpu_table() {
  static std::atomic<const Backend*> table = [] {
    const char* forced = std::getenv("FASTGRAD_BACKEND");
    return forced && *forced ? find_cpu_table(forced) : cpu_tables().front();
  }();
  return table;
}

#ifdef FASTGRAD_HAS_CUDA
std::atomic<const Backend*> cuda_table = &cuda::table;
#else
std::atomic<const Backend*> cuda_table = nullptr;
#endif

}  // namespace

const Backend& backend_for(c10::Device device) {
  if (device.is_cpu()) return *cpu_table().load(std::memory_order_relaxed);
  const Backend* table = device.is_cuda() ? cuda_table.load(std::memory_order_relaxed) : nullptr;
  TORCH_CHECK_NOT_IMPLEMENTED(table, "fastgrad: this build has no kernels for device type ", device.type());
  return *table;
}

void emulate_cuda() { cuda_table = find_cpu_table("emulated"); }

bool debugging() {
  static const bool on = [] {
    const char* set = std::getenv("FASTGRAD_DEBUG");
    return set && *set && std::string(set) != "0";
  }();
  return on;
}
bool checks_values(c10::Device device) { return !backend_for(device).synchronize || debugging(); }

std::string active_backend() { return cpu_table().load()->name; }
void force_backend(const std::string& name) { cpu_table().store(find_cpu_table(name)); }

std::vector<std::string> list_backends() {
  std::vector<std::string> names;
  for (const Backend* b : cpu_tables()) names.emplace_back(b->name);
  return names;
}

}  // namespace fastgrad::ops
