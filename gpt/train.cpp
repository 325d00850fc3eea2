#include "gpt/train.h"

#include "base/random.h"
#include "engine/run/checkpoint.h"
#include "formats/tokenizer.h"
#include "gpt/data.h"
#include "gpt/eval.h"
#include "gpt/model.h"

namespace gigagpt {
namespace {

class Training {
 public:
  // Everything that can be wrong with the config or the data shows before memory is taken.
  Training(GPTConfig& config, const engine::System& system, const TrainEvents& events)
      : config_(config),
        events_(events),
        data_(config, "train"),
        tokenizer_(formats::Tokenizer::read(formats::find_dataset(config.dataset))),
        checkpoints_({config.out_dir, config.storage.store, config.checkpoint_path,
                      config.run_size(/*training=*/true), config.dataset},
                     system.cluster),
        gpt_(make_gpt(config, /*training=*/true, system, checkpoints_.resume_point())) {
    if (config.eval_steps > 0) val_.emplace(config, "val");
  }

  void run() {
    events_.planned(gpt_.plan, checkpoints_.origin());
    step_ = checkpoints_.start(gpt_.store, gpt_.layout, config_.seed, events_.io_progress);
    metrics_.emplace(config_.out_dir, step_, option_texts(config_.options()), gpt_.cluster.leads(),
                     events_.note);
    for (bool stop = false; step_ < config_.num_steps && !stop;) {
      auto report = step();
      if (!report) break;
      if (val_ && (step_ == config_.num_steps || step_ % config_.eval_steps == 0)) {
        const auto result =
            evaluate(gpt_.executor, *val_, config_, config_.eval_batches, events_.eval_progress);
        if (result) report->val_loss = result->loss;
      }
      stop = gpt_.cluster.any(events_.stop_wanted());
      metrics_->end(report->val_loss);
      events_.step_done(*report);
      if (checkpoints_.due(step_)) save();
    }
    if (!checkpoints_.holds(step_)) save();
  }

 private:
  // One step; nothing if it was dropped half-way.
  std::optional<formats::StepMetrics> step() try {
    const auto batches = gpt_.cluster.together([&] { return data_.train_batch(step_); });
    const uint64_t key = mix(mix(uint64_t(config_.seed), hash_name("step")), uint64_t(step_));
    const engine::Update update{
        .rule = {config_.optimizer == "sgd", config_.beta1, config_.beta2, config_.adam_epsilon,
                 config_.weight_decay, uint64_t(config_.seed)},
        .lr = config_.learning_rate_at(step_),
        .max_norm = config_.max_gradient_norm,
        .step = step_ + 1};
    const auto gradients =
        gpt_.executor.compute_gradients(batches, key, update, events_.step_progress);
    if (!gradients) return std::nullopt;
    const auto report = gpt_.measure(*gradients, update);
    metrics_->begin(report);  // a file may say that the step is done from the next line on
    if (!gpt_.plan.execution.file.empty()) metrics_->sync();
    gpt_.store.commit(update, gradients->norm);
    ++step_;
    return report;
  } catch (const engine::NonFinite& error) {
    fail("step {}: {}. Last good checkpoint: {}. Try a lower learning_rate or a longer warm-up",
         step_ + 1, error.what(), checkpoints_.newest());
  } catch (const engine::AgreedError&) {  // bad data: what was learned so far is good
    if (step_ > 0 && !checkpoints_.holds(step_)) save();
    throw;
  }

  void save() {
    const auto write_rest = [&](const Path& directory) {
      formats::write_hf_config(directory, config_.hf(), tokenizer_);
    };
    metrics_->sync();
    const Path path =
        checkpoints_.save(step_, gpt_.store, gpt_.layout, option_texts(config_.options()),
                          write_rest, events_.io_progress);
    events_.note("saved " + path.string());
  }

  GPTConfig& config_;
  const TrainEvents& events_;
  TokenData data_;
  std::optional<TokenData> val_;
  std::string tokenizer_;  // kept here: the data's folder may go while training
  engine::Checkpoints checkpoints_;
  engine::Runtime gpt_;
  std::optional<formats::MetricsLog> metrics_;
  int64_t step_ = 0;  // steps completed
};

}  // namespace

void train(GPTConfig config, const engine::System& system, const TrainEvents& events) {
  Training training(config, system, events);
  system.cluster.guard([&] { training.run(); });
}

}  // namespace gigagpt
