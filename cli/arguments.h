// The command line: what was asked for, checked as far as that goes without LibTorch.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/option.h"
#include "gpt/config.h"

namespace gigagpt::cli {

// A value for a config key and where it was given, for messages ("configs/x.yaml:3", "--width").
struct Setting {
  std::string key;
  std::string value;
  std::string origin;
};

struct PrepareArguments {
  std::vector<std::string> inputs;
  std::string out;
  std::string tokenizer = "char";  // or a path
  std::string split = "auto";
  double val_fraction = 0.1;
  int64_t seed = 0;
  std::string text_field = "text";
  int64_t threads = 0;
  bool stats = false;
  std::vector<Option> options();
};

struct SampleArguments {
  std::string checkpoint_path;
  std::optional<std::string> tokenizer;
  std::optional<std::string> prompt;  // null: interactive
  double temperature = 0.8;
  int64_t top_k = 200;
  int64_t max_length = 500;
  std::optional<int64_t> no_repeat_ngram_size;  // null: 3, or 0 for characters
  int64_t num_samples = 1;
  int64_t seed = 0;
  std::string precision = "auto";
  int64_t threads = 0;
  std::optional<double> memory_gb = {};
  std::optional<std::string> logits = {};  // file for them
  std::vector<Option> options();
};

struct ExportArguments {
  std::string checkpoint_path;
  std::string gguf;  // or
  std::string hf;
  std::optional<std::string> type;  // null: f16, in a folder f32
  std::string tokenizer;            // empty: the checkpoint's
  std::vector<Option> options();
};

struct LawArguments {
  enum class Action { kPredict, kFit, kRatio, kChoose } action;
  std::vector<std::string> runs;            // fit, ratio
  std::optional<std::string> out = {};      // fit, choose
  std::optional<std::string> picture = {};  // fit, ratio
  std::optional<double> hours = {};         // choose, or
  std::optional<double> flops = {};
  std::vector<Option> fit_options();
  std::vector<Option> choose_options();
  std::vector<Option> ratio_options();
};

struct PlotArguments {
  std::vector<std::string> runs;
  std::string out;
  std::string x = "tokens";
  std::string log = "xy";
  double smooth = 0.02;
  std::optional<std::string> law = {};
  std::optional<std::string> title = {};
  std::vector<Option> options();
};

struct CoordinatesArguments {
  std::optional<std::string> widths = {};
  int64_t seeds = 3;
  int64_t steps = 6;
  std::optional<std::string> without = {};
  std::optional<std::string> out = {};
  std::vector<Option> options();
};

struct TokenizerArguments {
  enum class Action { kTrain, kEncode, kDecode } action;
  std::vector<std::string> inputs;  // none: standard input, except to train
  std::string out;                  // train
  int64_t vocab_size = 50257;
  std::string text_field = "text";
  std::string tokenizer;  // encode, decode
  bool special = false;   // encode
  std::vector<Option> train_options();
};

struct Arguments {
  enum class Command {
    kTokenizer,
    kPrepare,
    kPlan,
    kCheck,
    kCoordinates,
    kTrain,
    kEval,
    kSample,
    kInspect,
    kExport,
    kLaw,
    kPlot
  } command;
  TokenizerArguments tokenizer;
  PrepareArguments prepare;
  SampleArguments sample;
  ExportArguments exporting;
  CoordinatesArguments coordinates;
  PlotArguments plot;
  LawArguments law;
  std::string inspect_path;
  // plan, check, coordinates, law, train and eval: the config file's, then the flags'
  std::vector<Setting> settings;
  std::vector<std::string> notes;  // to be shown once
  bool measure = false;            // plan: the machine once more
  bool dry_run = false;
  int64_t log_steps = 1;
  bool profile = false;    // train: a table of where the time went
  std::string trace_file;  // train: the same as a time line; empty: none
};

const char* program_version();

// Parses the command line. Prints help or the version and exits when asked to. Throws Error for
// anything it cannot follow, naming the nearest flag or key.
Arguments parse_arguments(int argc, char** argv);

// Gives the config the settings in order. Throws Error with the origin of a bad one. Whether they
// go together is for GPTConfig::check() to say.
void apply_settings(const std::vector<Setting>& settings, GPTConfig& config);

}  // namespace gigagpt::cli
