// The primitives by which threads wait for each other: barriers, what a warp does together, asynchronous copies.
#include <cstdio>
#include <cstdlib>

#include "scheduler.h"

namespace cuda_emulator {
namespace {

constexpr int kMaxCopies = 256;

struct {
  int arrived, count, result;
  Block kind;
  Place place;
  unsigned generation;
} barrier;

// The thread sanitizer's name for a barrier, two by turns: a thread that leaves a barrier late must not learn what
// others did on their way to the next.
char block_order[2];

NO_TSAN void open_block_barrier() {
  barrier.result = barrier.kind == Block::any     ? barrier.count != 0
                   : barrier.kind == Block::all   ? barrier.count == barrier.arrived
                   : barrier.kind == Block::count ? barrier.count
                                                  : 0;
  barrier.arrived = barrier.count = 0;
  ++barrier.generation;
  for (int k = 0; k < total; ++k) {
    const int t = direction > 0 ? k : total - 1 - k;
    if (threads[t].state == State::at_block_barrier) make_ready(t);
  }
}

// The kind and the place of what the lanes of a mask do together must agree.
NO_TSAN bool same_place(const Place& a, const Place& b) {
  // The names of one place are nearly always one string, and sanitizers make strcmp slow.
  return a.line() == b.line() && (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

// All lanes of `mask` have arrived, in the warp that starts with thread `warp`: their results.
NO_TSAN void work_out(Warp kind, unsigned mask, int warp) {
  uint64_t ballot = 0;
  for (int l = 0; l < kLanes; ++l)
    if ((mask >> l & 1) && threads[warp + l].value) ballot |= 1u << l;
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    Thread& t = threads[warp + l];
    if (kind == Warp::ballot) t.result = ballot;
    if (kind != Warp::shuffle) continue;
    if (t.source < 0 || t.source >= kLanes || !(mask >> t.source & 1))
      fail("a shuffle reads a lane outside its mask: the value is stale", warp + l);
    t.result = threads[warp + t.source].value;
  }
}

}  // namespace

NO_TSAN void reset_barrier() { barrier.arrived = barrier.count = 0; }

NO_TSAN void thread_has_left() {
  if (barrier.arrived > 0 && barrier.arrived == alive) open_block_barrier();
  const int warp = current & -kLanes;
  for (int t = warp; t < warp + kLanes; ++t)
    if (threads[t].state == State::at_warp_barrier && (threads[t].mask >> (current - warp) & 1))
      fail("a thread returns while its warp waits for it", t);
}

int lane() { return current % kLanes; }

NO_TSAN unsigned lanes_alive() {
  const int warp = current & -kLanes;
  unsigned alive_lanes = 0;
  for (int l = 0; l < kLanes; ++l)
    if (threads[warp + l].state != State::absent && threads[warp + l].state != State::done) alive_lanes |= 1u << l;
  return alive_lanes;
}

NO_TSAN int block_barrier(Block kind, bool predicate, Place place) {
  threads[current].place = place;
  if (barrier.arrived > 0 && (kind != barrier.kind || !same_place(place, barrier.place))) {
    int other = 0;
    while (threads[other].state != State::at_block_barrier) ++other;
    fail("a divergent barrier", other, current);
  }
  barrier.kind = kind;
  barrier.place = place;
  barrier.count += predicate;
  ++barrier.arrived;
  char* const order = &block_order[barrier.generation & 1];
  release(order);
  if (barrier.arrived == alive)
    open_block_barrier();
  else
    wait_in(State::at_block_barrier);
  acquire(order);
  return barrier.result;
}

NO_TSAN uint64_t warp_collective(Warp kind, unsigned mask, uint64_t value, int source_lane, Place place) {
  const int warp = current & -kLanes;
  Thread& me = threads[current];
  me.place = place;
  me.kind = kind;
  me.mask = mask;
  me.value = value;
  me.source = source_lane;
  if (!(mask >> (current - warp) & 1)) fail("the mask lacks the calling lane", current);
  bool all_here = true;
  for (int l = 0; l < kLanes; ++l) {
    const Thread& t = threads[warp + l];
    if (!(mask >> l & 1) || warp + l == current) continue;
    if (t.state == State::absent || t.state == State::done) fail("the mask names a lane that is not there", current);
    if (t.state != State::at_warp_barrier)
      all_here = false;
    else if (t.kind != kind || t.mask != mask || !same_place(t.place, place))
      fail("lanes of one mask are at different places", warp + l, current);
  }
  const unsigned turn = kind == Warp::sync ? me.warp_syncs++ & 1 : 0;
  if (kind == Warp::sync) release(&me.warp_order[turn]);
  if (all_here) {
    work_out(kind, mask, warp);
    for (int l = 0; l < kLanes; ++l)
      if ((mask >> l & 1) && warp + l != current) make_ready(warp + l);
  } else {
    wait_in(State::at_warp_barrier);
  }
  if (kind == Warp::sync)
    for (int l = 0; l < kLanes; ++l)
      if (mask >> l & 1) acquire(&threads[warp + l].warp_order[turn]);
  return me.result;
}

// Two steps, so that the work sees every lane's pointer and no lane leaves before it is done.
void warp_together(Together work, void* mine, Place place) {
  const int warp = current & -kLanes;
  warp_collective(Warp::together, ~0u, reinterpret_cast<uintptr_t>(mine), 0, place);
  if (lane() == 0) {
    void* lanes[kLanes];
    for (int l = 0; l < kLanes; ++l) lanes[l] = reinterpret_cast<void*>(uintptr_t(threads[warp + l].value));
    work(lanes);
  }
  warp_collective(Warp::together, ~0u, reinterpret_cast<uintptr_t>(mine), 0, place);
}

void copy_async(void* to, const void* from, int bytes, int bytes_read) {
  Thread& me = threads[current];
  if (!me.copies) me.copies = static_cast<Copy*>(std::malloc(kMaxCopies * sizeof(Copy)));
  if (me.copy_count == kMaxCopies) fail("too many asynchronous copies in flight", current);
  if (reinterpret_cast<uintptr_t>(to) % bytes || (bytes_read && reinterpret_cast<uintptr_t>(from) % bytes))
    fail("a misaligned asynchronous copy", current);
  me.copies[me.copy_count++] = {to, from, bytes, bytes_read, me.groups};
  std::memset(to, 0xff, bytes);
}
void copy_async_commit() { ++threads[current].groups; }
void copy_async_wait(int groups_left) {
  Thread& me = threads[current];
  int left = 0;
  for (int k = 0; k < me.copy_count; ++k) {
    const Copy copy = me.copies[k];
    if (copy.group >= me.groups - groups_left) {
      me.copies[left++] = copy;
      continue;
    }
    std::memcpy(copy.to, copy.from, copy.bytes_read);
    std::memset(static_cast<char*>(copy.to) + copy.bytes_read, 0, copy.bytes - copy.bytes_read);
  }
  me.copy_count = left;
}

}  // namespace cuda_emulator
