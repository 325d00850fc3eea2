#include "engine/run/manifest.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/version.h>
#include <dnnl.hpp>

#include "base/system.h"

namespace gigagpt::engine {

formats::TextPairs manifest() {
  const dnnl_version_t* dnnl = dnnl_version();
  return {{"gigagpt", GIGAGPT_VERSION},
          {"libtorch", TORCH_VERSION},
          {"onednn", std::to_string(dnnl->major) + "." + std::to_string(dnnl->minor) + "." +
                         std::to_string(dnnl->patch)},
          {"cpu", cpu_name()},
          {"threads", std::to_string(at::get_num_threads())}};
}

}  // namespace gigagpt::engine
