// What runs beside the threads of a block: mbarriers, the copy engine, the tensor cores of a warpgroup. Everything
// happens as late as the PTX manual allows: a copy lands when no thread can go on without one, the newest first in
// every other block; a product is worked out when its group is waited for. What is used too early, or overwritten too
// early, shows as NaN.
#include <cstdlib>

#include "cudaTypedefs.h"
#include "scheduler.h"

namespace cuda_emulator {
namespace {

constexpr int kMaxInFlight = 256, kMaxProducts = 64;
constexpr unsigned kSharedStart = 1024;  // the hardware keeps the first part of shared memory for itself

// The 64 bits of an mbarrier; the true ones are opaque.
struct Mbarrier {
  uint16_t arrivals;  // of a phase
  uint16_t missing;   // in the phase in hand
  int32_t bytes : 24;
  uint32_t phase : 1, sign : 7;
};
static_assert(sizeof(Mbarrier) == 8);
constexpr uint32_t kInitialized = 0x35;

struct InFlight {
  char* to;
  CUtensorMap map;
  uint64_t* barrier;
  int at[5];
};
InFlight in_flight[kMaxInFlight];
int in_flight_count;

NO_TSAN Mbarrier load(const uint64_t* barrier, int thread) {
  Mbarrier b;
  std::memcpy(&b, barrier, sizeof b);
  if (b.sign != kInitialized) fail("an mbarrier that was not initialized", thread);
  return b;
}
NO_TSAN bool has_ended(const Mbarrier& b, unsigned parity) { return b.phase != parity; }

// Writes the barrier back, in the next phase if this one is complete, and wakes those who waited for that.
NO_TSAN void store(uint64_t* barrier, Mbarrier b) {
  const bool complete = b.missing == 0 && b.bytes == 0;
  if (complete) b.missing = b.arrivals, b.phase ^= 1;
  std::memcpy(barrier, &b, sizeof b);
  if (!complete) return;
  for (int k = 0; k < total; ++k) {
    const int t = direction > 0 ? k : total - 1 - k;
    if (threads[t].state == State::at_mbarrier && threads[t].barrier == barrier && has_ended(b, threads[t].parity))
      make_ready(t);
  }
}

NO_TSAN unsigned swizzle(const CUtensorMap& map, unsigned address) {
  return map.swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? address ^ (address >> 3 & 0x70) : address;
}

// The elements of the box, of which those outside the tensor are 0.
NO_TSAN void copy_box(const InFlight& f) {
  const CUtensorMap& m = f.map;
  char* const shared = reinterpret_cast<char*>(dynamic_shared());
  unsigned address = shared_address(f.to);
  int index[5] = {};
  for (;;) {
    bool inside = true;
    const char* from = m.data;
    for (int d = 0; d < m.rank; ++d) {
      const int64_t at = int64_t(f.at[d]) + index[d];
      inside = inside && at >= 0 && uint64_t(at) < m.shape[d];
      from += at * int64_t(d == 0 ? 2 : m.strides[d - 1]);
    }
    uint16_t element = 0;
    if (inside) element = *reinterpret_cast<const uint16_t*>(from);
    *reinterpret_cast<uint16_t*>(shared + swizzle(m, address) - kSharedStart) = element;
    address += 2;
    int d = 0;
    while (d < m.rank && ++index[d] == m.box[d]) index[d++] = 0;
    if (d == m.rank) return;
  }
}
NO_TSAN int bytes_of(const CUtensorMap& m) {
  int bytes = 2;
  for (int d = 0; d < m.rank; ++d) bytes *= m.box[d];
  return bytes;
}

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data, const cuuint64_t* shape,
                      const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* element_strides,
                      CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                      CUtensorMapFloatOOBfill) {
  bool valid = rank >= 1 && rank <= 5 && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
               reinterpret_cast<uintptr_t>(map) % 64 == 0 && box[0] * 2 % 16 == 0 &&
               (swizzle != CU_TENSOR_MAP_SWIZZLE_128B || box[0] * 2 <= 128);
  if (!valid) return CUDA_ERROR_INVALID_VALUE;
  *map = {};
  map->data = static_cast<const char*>(data);
  map->rank = uint8_t(rank);
  map->swizzle = uint8_t(swizzle);
  for (unsigned d = 0; d < rank; ++d) {
    valid &= shape[d] > 0 && shape[d] <= uint64_t(1) << 32 && box[d] > 0 && box[d] <= 256 && element_strides[d] == 1;
    valid &= d == 0 || (strides[d - 1] % 16 == 0 && strides[d - 1] > 0 && strides[d - 1] < uint64_t(1) << 40);
    map->shape[d] = shape[d];
    map->box[d] = uint16_t(box[d]);
    if (d > 0) map->strides[d - 1] = strides[d - 1];
  }
  return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// Element (row, k) of a fragment by its descriptor, in the canonical layouts of the PTX manual with the 128-byte
// swizzle: lines of 128 bytes, 8 of which make an atom.
struct Fragment {
  unsigned start, leading, stride;
  bool rows_fastest;
};
NO_TSAN Fragment fragment_of(uint64_t descriptor, bool rows_fastest) {
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) fail("a descriptor without the 128-byte swizzle", current);
  return {unsigned(descriptor & 0x3fff) << 4, unsigned(descriptor >> 16 & 0x3fff) << 4,
          unsigned(descriptor >> 32 & 0x3fff) << 4, rows_fastest};
}
NO_TSAN uint16_t element_of(const Fragment& f, int row, int k) {
  const unsigned offset = f.rows_fastest ? unsigned(row) % 64 * 2 + unsigned(row) / 64 * f.leading +
                                               unsigned(k) % 8 * 128 + unsigned(k) / 8 * f.stride
                                         : unsigned(row) % 8 * 128 + unsigned(row) / 8 * f.stride + unsigned(k) * 2;
  unsigned address = f.start + offset;
  address ^= address >> 3 & 0x70;
  return *reinterpret_cast<const uint16_t*>(dynamic_shared() + (address - kSharedStart));
}

// The 16 rows of one warp in one product. Lane l holds rows l / 4 and l / 4 + 8 at columns 2 (l % 4) and the next of
// every 8.
NO_TSAN void multiply(const Multiply& m, int warp_of_group, float* const (&sums)[kLanes]) {
  const Fragment a = fragment_of(m.a, m.a_rows_fastest), b = fragment_of(m.b, m.b_columns_fastest);
  static float x[16][16], y[256][16];
  for (int k = 0; k < 16; ++k) {
    for (int r = 0; r < 16; ++r) x[r][k] = m.decode(element_of(a, warp_of_group * 16 + r, k));
    for (int c = 0; c < m.columns; ++c) y[c][k] = m.decode(element_of(b, c, k));
  }
  for (int l = 0; l < kLanes; ++l)
    for (int i = 0; i < m.columns / 2; ++i) {
      const int row = l / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + l % 4 * 2 + i % 2;
      float sum = m.accumulate ? sums[l][i] : 0;
      for (int k = 0; k < 16; ++k) sum += x[row][k] * y[column][k];
      sums[l][i] = sum;
    }
}

NO_TSAN bool same_product(const Multiply& x, const Multiply& y) {
  return x.a == y.a && x.b == y.b && x.columns == y.columns && x.accumulate == y.accumulate;
}

// Works out the products of a warp's groups but for the latest ones: lanes[l] is lane l's Thread, whose `result` is the
// number of groups to leave.
NO_TSAN void finish_products(void* const* lanes) {
  Thread* const thread = static_cast<Thread*>(lanes[0]);
  int left = 0;
  for (int p = 0; p < thread->product_count; ++p) {
    const bool stays = thread->products[p].group >= thread->product_groups - int(thread->result);
    float* sums[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      Thread& t = *static_cast<Thread*>(lanes[l]);
      if (t.product_count != thread->product_count || t.product_groups != thread->product_groups ||
          !same_product(t.products[p].what, thread->products[p].what))
        fail("the lanes of a warp disagree about a product", int(&t - threads));
      sums[l] = t.products[p].what.sum;
    }
    if (!stays) multiply(thread->products[p].what, int(thread - threads) / kLanes % 4, sums);
    if (stays)
      for (int l = 0; l < kLanes; ++l) {
        Thread& t = *static_cast<Thread*>(lanes[l]);
        t.products[left] = t.products[p];
      }
    left += stays;
  }
  for (int l = 0; l < kLanes; ++l) static_cast<Thread*>(lanes[l])->product_count = left;
}

}  // namespace

NO_TSAN void reset_copies() { in_flight_count = 0; }

NO_TSAN bool land_a_copy() {
  if (in_flight_count == 0) return false;
  const int which = direction > 0 ? 0 : in_flight_count - 1;
  const InFlight f = in_flight[which];
  for (int k = which + 1; k < in_flight_count; ++k) in_flight[k - 1] = in_flight[k];
  --in_flight_count;
  copy_box(f);
  Mbarrier b = load(f.barrier, current);
  b.bytes -= bytes_of(f.map);
  store(f.barrier, b);
  return true;
}
NO_TSAN void check_nothing_in_flight() {
  if (in_flight_count > 0) fail("a block ends while the copy engine writes to its shared memory", current);
}

NO_TSAN unsigned shared_address(const void* p) {
  return kSharedStart + unsigned(static_cast<const unsigned char*>(p) - dynamic_shared());
}

NO_TSAN void barrier_init(uint64_t* barrier, unsigned arrivals, Place place) {
  threads[current].place = place;
  if (reinterpret_cast<uintptr_t>(barrier) % 8 || arrivals == 0 || arrivals > 1024)
    fail("an mbarrier that is misaligned or expects no arrivals", current);
  const Mbarrier b{uint16_t(arrivals), uint16_t(arrivals), 0, 0, kInitialized};
  std::memcpy(barrier, &b, sizeof b);
}
NO_TSAN void barrier_arrive(uint64_t* barrier, unsigned bytes_expected, Place place) {
  threads[current].place = place;
  release(reinterpret_cast<char*>(barrier));
  Mbarrier b = load(barrier, current);
  if (b.missing == 0) fail("more arrivals at an mbarrier than its phase expects", current);
  b.bytes += int(bytes_expected);
  --b.missing;
  store(barrier, b);
}
NO_TSAN void barrier_wait(uint64_t* barrier, unsigned parity, Place place) {
  Thread& me = threads[current];
  me.place = place;
  if (!has_ended(load(barrier, current), parity)) {
    me.barrier = barrier;
    me.parity = parity;
    wait_in(State::at_mbarrier);
  }
  acquire(reinterpret_cast<char*>(barrier));
}

NO_TSAN void load_box(void* to, const CUtensorMap& map, uint64_t* barrier, const int* at, int rank, Place place) {
  threads[current].place = place;
  if (rank != map.rank) fail("a tensor map of another rank", current);
  if (shared_address(to) % (map.swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 1024 : 128)) fail("a misaligned box", current);
  if (in_flight_count == kMaxInFlight) fail("too many copies in flight", current);
  load(barrier, current);
  InFlight& f = in_flight[in_flight_count++];
  f.to = static_cast<char*>(to);
  f.map = map;
  f.barrier = barrier;
  for (int d = 0; d < rank; ++d) f.at[d] = at[d];
  std::memset(to, 0xff, size_t(bytes_of(map)));
}

NO_TSAN void wgmma_fence() { threads[current].fenced = true; }
NO_TSAN void wgmma_commit() { ++threads[current].product_groups; }
NO_TSAN void wgmma_multiply(const Multiply& m, Place place) {
  Thread& me = threads[current];
  me.place = place;
  if (!me.products) me.products = static_cast<Product*>(std::malloc(kMaxProducts * sizeof(Product)));
  if (!me.fenced) fail("a product without wgmma.fence", current);
  if (me.product_count == kMaxProducts) fail("too many products in flight", current);
  me.products[me.product_count++] = {m, me.product_groups};
}
void wgmma_wait(int groups_left, Place place) {
  Thread& me = threads[current];
  me.fenced = false;
  me.result = uint64_t(groups_left);
  warp_together(&finish_products, &me, place);
}

}  // namespace cuda_emulator

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuda_emulator::encode_tiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
