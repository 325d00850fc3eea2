#include "engine/run/measure.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <utility>

#include "base/async_file.h"
#include "base/error.h"
#include "base/system.h"
#include "engine/plan/plan.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "ops/parallel.h"

namespace gigagpt::engine {
namespace {

// Of b[i] = a[i] + 1 over arrays that are in no cache.
double measure_memory() {
  constexpr size_t kFloats = size_t{32} << 20;
  const PageBuffer from(4 * kFloats), to(4 * kFloats);
  const auto* a = reinterpret_cast<const float*>(from.data());
  auto* b = reinterpret_cast<float*>(to.data());
  double best_s = 1e30;
  const Stopwatch watch;
  for (int i = 0; i < 4 || watch.seconds() < 0.5; ++i) {
    const Stopwatch pass;
    ops::parallel_parts(kFloats, 1 << 16, [&](size_t begin, size_t end, size_t) {
      for (size_t j = begin; j < end; ++j) b[j] = a[j] + 1;
    });
    best_s = std::min(best_s, pass.seconds());
  }
  return 2 * 4 * double(kFloats) / best_s;
}

double use_and_measure() {
  const at::Tensor x = at::ones({64, 64}).requires_grad_(true);
  const at::Tensor y = ops::linear(x, {{x.detach(), {}}, {}});
  torch::autograd::grad({y.sum()}, {x});
  return 1e9 * rss_gb();
}

// What LibTorch, oneDNN and their threads take once they have been used. Measured at the first
// call, which comes before the large products: their memory is kept for later tensors.
double measure_program() {
  static const double bytes = use_and_measure();
  return bytes;
}

void measure_disk_of(const Path& folder, Machine& machine) try {
  machine.disks[disk_name(folder)] = measure_disk(existing_folder(folder), {});
} catch (const Error&) {
  // No room, or no right to write: what has to fail will do so where it matters.
}

// The rate of large products in that precision, in FLOP/s.
double measure_peak_flops(Precision precision) {
  return ops::measure_gemm_flops(precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat);
}

double measured_twice(Precision precision) {
  return std::max(measure_peak_flops(precision), measure_peak_flops(precision));
}

}  // namespace

Precision choose_precision(const std::string& wanted, bool compact) {
  return precision_for(wanted, compact, ops::has_native_bf16());
}

Machine measure_machine(const Path& folder) {
  Machine machine = read_machine().value_or(Machine());
  if (!machine.is_current_host() || machine.others_share > kBusyShare) machine = {};
  machine.program_bytes = measure_program();
  const OthersLoad load;
  machine.cpu = cpu_name();
  machine.cores = core_count();
  machine.native_bf16 = choose_precision("auto", /*compact=*/false) == Precision::kBf16;
  machine.bf16_flops = measured_twice(Precision::kBf16);
  machine.fp32_flops = measured_twice(Precision::kFp32);
  machine.memory_bytes_per_s = measure_memory();
  measure_disk_of(folder, machine);
  machine.others_share = load.share();
  return machine;
}

Machine known_machine(Precision precision, const Path& folder, int systems_here) {
  const bool keep = systems_here == 1;
  auto machine = read_machine();
  const double program_bytes = measure_program();
  const OthersLoad load;
  const double now = measure_peak_flops(precision);
  const bool calmer =
      machine && machine->others_share > kBusyShare && load.share() < machine->others_share / 2;
  if (!machine || !machine->is_current_host() || (keep && calmer)) {
    machine = measure_machine(folder);
    if (keep) write_machine(*machine);
  } else if (machine->disk_of(folder).mixed == 0) {
    measure_disk_of(folder, *machine);
    if (keep) write_machine(*machine);
  }
  if (keep && machine->program_bytes == 0) {
    machine->program_bytes = program_bytes;
    write_machine(*machine);
  }
  machine->program_bytes = program_bytes;
  // What is kept is the best that was seen: the machine may have been busy the first time.
  double& rate = precision == Precision::kBf16 ? machine->bf16_flops : machine->fp32_flops;
  if (keep && now > rate) {
    rate = now;
    write_machine(*machine);
  }
  // The rate was measured with the others at work.
  Machine part = machine->shared_by(systems_here);
  (precision == Precision::kBf16 ? part.bf16_flops : part.fp32_flops) = now;
  return part;
}

}  // namespace gigagpt::engine
