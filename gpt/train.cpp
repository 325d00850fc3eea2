#include "gpt/train.h"

#include "base/random.h"
#include "engine/run/checkpoint.h"
#include "engine/run/watch.h"
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
        checkpoints_({config.out_dir, config.storage.store, config.saves.checkpoint_path,
                      config.run_size(/*training=*/true), option_texts(config.options()),
                      formats::find_dataset(config.dataset)},
                     system.cluster, events.note),
        gpt_(make_gpt(config, /*training=*/true, system, checkpoints_.resume_point())),
        watch_(config.watch, config.out_dir, gpt_.store, events.note) {
    if (config.eval_steps > 0) val_.emplace(config, "val");
  }

  void run() {
    events_.planned(gpt_.plan, checkpoints_.origin(gpt_.store.precision()));
    begin_at(checkpoints_.start(gpt_.store, config_.seed, events_.io_progress));
    for (bool stop = watch_.stalls(); step_ < config_.num_steps && !stop;) {
      auto report = step();
      if (!report) break;
      bool best = false;
      if (val_ && (step_ == config_.num_steps || step_ % config_.eval_steps == 0)) {
        const auto result = evaluate(gpt_.executor, *val_, config_, events_.eval_progress);
        if (result) best = watch_.is_best(*report, result->loss);
      }
      metrics_->end(report->val_loss);
      events_.step_done(*report);
      stop = gpt_.cluster.any(events_.stop_wanted()) || watch_.stalls();
      if (checkpoints_.due(step_, best && config_.watch.keep_best)) save(best);
    }
    if (!checkpoints_.holds(step_)) save(/*best=*/false);
  }

 private:
  void begin_at(int64_t step) {
    step_ = step;
    watch_.load(step);
    metrics_.emplace(config_.out_dir, step, option_texts(config_.options()), gpt_.cluster.leads(),
                     events_.note);
  }

  // One step; nothing if it was dropped half-way.
  std::optional<formats::StepMetrics> step() try {
    const auto batches =
        gpt_.cluster.together([&] { return data_.train_batch(watch_.batch_of(step_)); });
    const uint64_t key = mix(mix(uint64_t(config_.seed), hash_name("step")), uint64_t(step_));
    const auto update = config_.optim.update_at(step_, config_.num_steps, config_.seed);
    const auto gradients =
        gpt_.executor.compute_gradients(batches, key, update, events_.step_progress);
    if (!gradients) return std::nullopt;
    if (!watch_.accepts(step_, gradients->loss, gradients->norm)) return step_without_batch();
    auto report = gpt_.measure(*gradients, update);
    report.epoch = data_.epochs(watch_.batch_of(step_) + 1);
    if (events_.measured) events_.measured(report);
    metrics_->begin(report);  // a file may say that the step is done from the next line on
    if (!gpt_.plan.execution.file.empty()) metrics_->sync();
    gpt_.store.commit(update, gradients->norm);
    ++step_;
    return report;
  } catch (const engine::NonFinite& error) {
    if (watch_.leaves_out(step_, error.what())) return step_without_batch();
    fail("step {}: {}. Last good checkpoint: {}. Try a lower learning_rate or a longer warm-up",
         step_ + 1, error.what(), checkpoints_.newest());
  } catch (const engine::AgreedError&) {  // bad data: what was learned so far is good
    if (step_ > 0 && !checkpoints_.holds(step_)) save(/*best=*/false);
    throw;
  }

  // The step, or with on_spike: rewind one before it, with another batch than the one that failed.
  std::optional<formats::StepMetrics> step_without_batch() {
    const int64_t back = watch_.rewinds() ? checkpoints_.way_back(gpt_.store) : -1;
    gpt_.store.abandon();
    watch_.leave_out(step_, back < 0 ? step_ : back);
    if (back >= 0) {
      checkpoints_.reload(back, gpt_.store, events_.io_progress);
      begin_at(back);
    }
    return step();
  }

  void save(bool best) {
    const auto write_rest = [&](const Path& directory) {
      config_.write_model(directory, tokenizer_);
    };
    metrics_->sync();
    checkpoints_.save(step_, gpt_.store, best, write_rest, events_.io_progress);
  }

  GPTConfig& config_;
  const TrainEvents& events_;
  TokenData data_;
  std::optional<TokenData> val_;
  std::string tokenizer_;  // kept here: the data's folder may go while training
  engine::Checkpoints checkpoints_;
  engine::Runtime gpt_;
  engine::Watch watch_;
  std::optional<formats::MetricsLog> metrics_;
  int64_t step_ = 0;  // steps completed
};

}  // namespace

void train(GPTConfig config, const engine::System& system, const TrainEvents& events) {
  Training training(config, system, events);
  system.cluster.guard([&] { training.run(); });
}

}  // namespace gigagpt
