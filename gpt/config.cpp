#include "gpt/config.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace gigagpt {

std::vector<Option> GPTConfig::options() {
  // Sizes end before their products overflow: 12 L C C and V C stay below 2^58.
  std::vector<Option> options = {
      {"max_position_embeddings", &max_position_embeddings, "longest sequence",
       between(1, 1 << 24)},
      {"vocab_size", &vocab_size, "token ids (V); by default the data set's", between(1, 1 << 24)},
      {"depth", &depth, "number of transformer blocks (L)", between(1, 1 << 18)},
      {"heads", &heads, "attention heads (H)", between(1, 1 << 18)},
      {"width", &width, "width of the residual stream (C)", between(1, 1 << 18)},
      {"dropout", &dropout, "dropout on embeddings, attention and FFN output", between(0, 0.99)},
      {"bias", &bias, "biases on the linear layers"},
      {"activation", &activation, "GELU: exact, or GPT-2's", one_of(formats::hf_activations())},
      {"init_std", &init_std, "deviation of the initial weights", above(0)},
      {"residual_init_std", &residual_init_std, "of residual layers; null: init_std/sqrt(2L)",
       above(0)},
      {"out_dir", &out_dir, "where checkpoints and metrics.jsonl go"},
      {"dataset", &dataset, "folder with train.bin and val.bin, or its name under data/"},
      {"batch_size", &batch_size, "sequences per step", between(1, 1 << 24)},
      {"sequence_length", &sequence_length, "tokens per sequence (T)", between(1, 1 << 24)},
      {"num_steps", &num_steps, "steps of the whole run", at_least(1)},
      {"checkpoint_steps", &checkpoint_steps, "steps between checkpoints; 0: any", at_least(0)},
      {"checkpoint_path", &checkpoint_path, "to continue from; latest: the newest in out_dir"},
      {"load_weights_only", &load_weights_only, "begin a new run with them; auto: on other data",
       one_of({"auto", "true", "false"})},
      {"seed", &seed, "of weights, data order and dropout", at_least(0)},
      {"num_systems", &num_systems, "machines (or MPI ranks) to train on", at_least(1)},
      {"precision", &precision, "of matrix products", one_of({"auto", "bf16", "fp32"})},
      {"micro_batch_size", &micro_batch_size, "sequences at once; null: automatic",
       between(1, 1 << 24)},
      {"eval_steps", &eval_steps, "evaluate every so many steps; 0: never", at_least(0)},
      {"eval_batches", &eval_batches, "batches of val.bin per evaluation; 0: all", at_least(0)},
      {"checkpoint_minutes", &checkpoint_minutes, "the same in minutes; 0: any", at_least(0)},
      {"keep_checkpoints", &keep_checkpoints, "newest checkpoints to keep; 0: all", at_least(0)},
      {"threads", &threads, "CPU threads; 0: one per core", between(0, 1 << 16)},
  };
  for (auto rules : {optim.options(), storage.options(), systems.options(), watch.options()}) {
    std::move(rules.begin(), rules.end(), std::back_inserter(options));
  }
  return options;
}

void GPTConfig::check() const {
  const double tokens = double(num_steps) * double(batch_size) * double(sequence_length);
  if (tokens > 0x1p60) fail("num_steps: a run of {} tokens is too long to count", tokens);
  if (width % heads != 0) fail("heads: {} does not divide width {}", heads, width);
  if (sequence_length > max_position_embeddings) {
    fail("sequence_length: {} is above max_position_embeddings {}", sequence_length,
         max_position_embeddings);
  }
  if (micro_batch() > batch_size) {
    fail("micro_batch_size: {} is above batch_size {}", micro_batch(), batch_size);
  }
  if (run_size(true).all_micro_batches() < num_systems) {
    fail("num_systems: {} systems need as many micro-batches, but batch_size {} has {}",
         num_systems, batch_size, run_size(true).all_micro_batches());
  }
}

formats::HfGpt2Config GPTConfig::hf() const {
  return {depth,   heads,    width, max_position_embeddings, vocab_size, activation,
          dropout, init_std, bias};
}

GPTConfig GPTConfig::of_checkpoint(const Path& checkpoint) {
  const formats::HfGpt2Config hf = formats::read_hf_config(checkpoint);
  GPTConfig config{hf.n_positions, hf.vocab_size, hf.n_layer,    hf.n_head,           hf.n_embd,
                   hf.dropout,     hf.bias,       hf.activation, hf.initializer_range};
  config.sequence_length = hf.n_positions;
  return config;
}

int64_t GPTConfig::micro_batch() const {
  if (micro_batch_size) return *micro_batch_size;
  const int64_t share = batch_size % num_systems == 0 ? batch_size / num_systems : batch_size;
  int64_t size = std::clamp<int64_t>(4096 / sequence_length, 1, share);
  while (share % size != 0 || size * num_systems > std::max(batch_size, num_systems)) --size;
  return size;
}

engine::RunSize GPTConfig::run_size(bool training) const {
  engine::RunSize size{batch_size, micro_batch(), sequence_length, training, num_steps};
  size.checkpoint_steps = checkpoint_steps, size.checkpoint_minutes = checkpoint_minutes;
  size.keep_checkpoints = keep_checkpoints, size.systems = num_systems;
  size.flops_per_token = train_flops_per_token(), size.network_gbit = systems.network(num_systems);
  return size;
}

std::vector<engine::LayerSpec> GPTConfig::layers() const {
  const int64_t C = width;
  const double std = init_std;
  const double residual_std = residual_init_std.value_or(std / std::sqrt(2.0 * double(depth)));
  const auto linear = [&](std::vector<engine::ParamSpec>& params, const std::string& name,
                          int64_t in, int64_t out, double weight_std) {
    params.push_back({name + ".weight", {out, in}, 0, weight_std});
    if (bias) params.push_back({name + ".bias", {out}});
  };
  std::vector<engine::LayerSpec> layers;
  layers.push_back({"embedding",
                    "",
                    {{"wte.weight", {vocab_size, C}, 0, std, /*looked_up=*/true},
                     {"wpe.weight", {max_position_embeddings, C}, 0, std}}});
  for (int64_t i = 0; i < depth; ++i) {
    std::vector<engine::ParamSpec> block = {{"ln_1.weight", {C}, 1}, {"ln_1.bias", {C}}};
    linear(block, "attn.proj_qkv", C, 3 * C, std);
    linear(block, "attn.proj_output", C, C, residual_std);
    block.insert(block.end(), {{"ln_2.weight", {C}, 1}, {"ln_2.bias", {C}}});
    linear(block, "ffn.fc", C, 4 * C, std);
    linear(block, "ffn.proj", 4 * C, C, residual_std);
    const std::string name = fmt::format("decoder.{}", i);
    layers.push_back({name, name + ".", std::move(block)});
  }
  layers.push_back({"head", "", {{"ln_f.weight", {C}, 1}, {"ln_f.bias", {C}}}, {"wte.weight"}});
  return layers;
}

double GPTConfig::train_flops_per_token() const {
  const double C = double(width);
  const double matrices = 12 * C * C * double(depth) + double(vocab_size) * C;
  const double attended = (double(sequence_length) + 1) / 2;  // mean over a causal sequence
  return 3 * (2 * matrices + 4 * C * attended * double(depth));
}

}  // namespace gigagpt
