#include "gpt/train.h"

#include "base/random.h"
#include "base/system.h"
#include "engine/update.h"
#include "formats/tokenizer.h"
#include "gpt/data.h"
#include "gpt/eval.h"
#include "gpt/model.h"

namespace gigagpt {
namespace {

class Training {
 public:
  Training(GPTConfig& config, const TrainEvents& events)
      : config_(config), events_(events), data_(config, "train"), gpt_(config, /*training=*/true) {
    if (config.eval_steps > 0) val_.emplace(config, "val");
  }

  void run() {
    start();
    formats::MetricsLog metrics(Path(config_.out_dir) / "metrics.jsonl", step_);
    for (bool stop = false; step_ < config_.num_steps && !stop;) {
      auto report = step();
      if (!report) break;
      stop = events_.stop_wanted();
      if (val_ && (step_ == config_.num_steps || step_ % config_.eval_steps == 0)) {
        const auto result =
            evaluate(gpt_.executor, *val_, config_, config_.eval_batches, events_.eval_progress);
        if (result) report->val_loss = result->loss;
      }
      metrics.write(*report);
      events_.step_done(*report);
      if (checkpoint_due()) save();
    }
    if (saved_step_ != step_) save();
  }

 private:
  void start() {
    const auto from = engine::resume_point(config_.out_dir, config_.checkpoint_path);
    std::filesystem::create_directories(config_.out_dir);
    if (from) {
      step_ = engine::resume(*from, gpt_.store, gpt_.layout, step_tokens());
      if (*from == engine::checkpoint_directory(config_.out_dir, step_)) saved_step_ = step_;
      events_.note(fmt::format("continuing from {} at step {}", from->string(), step_));
    } else {
      gpt_.store.initialise(uint64_t(config_.seed));
    }
    peak_flops_ = engine::measure_peak_flops(gpt_.store.precision());
    events_.note(fmt::format("computing in {}; large matrix products reach {:.0f} GFLOP/s",
                             engine::precision_name(gpt_.store.precision()), peak_flops_ / 1e9));
  }

  // One step; nothing if it was dropped half-way.
  std::optional<formats::StepMetrics> step() try {
    const Stopwatch watch;
    const auto batches = data_.train_batch(step_);
    const uint64_t key = mix(mix(uint64_t(config_.seed), hash_name("step")), uint64_t(step_));
    const auto loss = gpt_.executor.train_step(batches, key, events_.step_progress);
    if (!loss) return std::nullopt;
    const ops::UpdateRule rule{config_.optimizer == "sgd", config_.beta1, config_.beta2,
                               config_.adam_epsilon, config_.weight_decay};
    const double lr = config_.learning_rate_at(step_);
    const double norm =
        engine::apply_gradients(gpt_.store, rule, lr, config_.max_gradient_norm, step_ + 1);
    ++step_;
    const double seconds = watch.seconds();
    const double tokens_per_s = double(step_tokens()) / seconds;
    const double mfu = tokens_per_s * config_.train_flops_per_token() / peak_flops_;
    return formats::StepMetrics{step_, step_ * step_tokens(), *loss,        norm, lr, tokens_per_s,
                                mfu,   seconds * 1e3,         peak_rss_gb()};
  } catch (const engine::NonFinite& error) {
    const Path last_good = engine::checkpoint_directory(config_.out_dir, saved_step_);
    fail("step {}: {}. Last good checkpoint: {}. Try a lower learning_rate or a longer warm-up",
         step_ + 1, error.what(), saved_step_ < 0 ? "none" : last_good.string());
  }

  bool checkpoint_due() const {
    const bool by_step = config_.checkpoint_steps > 0 && step_ % config_.checkpoint_steps == 0;
    const double minutes = config_.checkpoint_minutes;
    return by_step || (minutes > 0 && since_saved_.seconds() > 60 * minutes);
  }

  void save() {
    formats::TrainerState state{step_, step_ * step_tokens(), {}, {}};
    for (const Option& o : config_.options()) state.config.emplace_back(o.name, option_text(o));
    const auto write_rest = [&](const Path& directory) {
      formats::write_hf_config(directory, hf_config(config_));
      formats::Tokenizer::copy(formats::find_dataset(config_.dataset), directory);
    };
    const Path path = engine::save_checkpoint(config_.out_dir, state, gpt_.store, gpt_.layout,
                                              write_rest, config_.keep_checkpoints);
    saved_step_ = step_;
    since_saved_ = {};
    events_.note("saved " + path.string());
  }

  int64_t step_tokens() const { return config_.batch_size * config_.sequence_length; }

  GPTConfig& config_;
  const TrainEvents& events_;
  TokenData data_;
  std::optional<TokenData> val_;
  GPT gpt_;
  int64_t step_ = 0;         // steps completed
  int64_t saved_step_ = -1;  // of the newest checkpoint
  Stopwatch since_saved_;    // or since the start
  double peak_flops_ = 0;
};

}  // namespace

void train(GPTConfig config, const TrainEvents& events) {
  Training(config, events).run();
}

}  // namespace gigagpt
