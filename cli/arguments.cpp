#include "cli/arguments.h"

#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.h"
#include "cli/help_text.h"
#include "cli/yaml.h"

namespace gigagpt::cli {
namespace {

using Flags = std::map<std::string, std::string>;  // values of flags by name, as typed

// The option's help with what it may be and what it is unless given.
std::string full_help(const Option& option) {
  std::string help = option.help;
  if (!option.rule.choices.empty())
    help += fmt::format(": {}", fmt::join(option.rule.choices, ", "));
  const std::string initial = option_text(option);
  return initial.empty() ? help : fmt::format("{} [{}]", help, initial);
}

void add_flags(CLI::App& app, const std::vector<Option>& options, const char* group, Flags& flags) {
  for (const Option& option : options) {
    const auto store = [&flags, name = option.name](const std::string& v) { flags[name] = v; };
    app.add_option_function<std::string>("--" + option.name, store, full_help(option))
        ->take_last()
        ->type_name("")
        ->group(group);
  }
}

constexpr const char* kInputHelp = "text, JSON lines, archive or folder; may be repeated";

// The help names no type.
template <class Value>
CLI::Option* add_value(CLI::App& app, const char* name, Value& value, const char* help) {
  return app.add_option(name, value, help)->type_name("");
}

void set_flags(const std::vector<Option>& options, const Flags& flags) {
  for (const Option& option : options) {
    const auto found = flags.find(option.name);
    if (found == flags.end()) continue;
    try {
      set_option(option, found->second);
    } catch (const Error& error) {
      fail("--{}", error.what());
    }
  }
}

[[noreturn]] void fail_extra(const CLI::App& app, const std::string& extra) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) names.push_back(option->get_name());
  for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
  const std::string near = nearest_name(extra, names);
  std::string command;
  for (const CLI::App* part = &app; part->get_parent() != nullptr; part = part->get_parent()) {
    command.insert(0, " " + part->get_name());
  }
  fail("unknown {} '{}'{}; see gigagpt{} --help", extra.starts_with("-") ? "flag" : "argument",
       extra, near.empty() ? "" : fmt::format("; did you mean '{}'?", near), command);
}

// The sub-commands and where their flags land; must outlive the parse.
struct Parser {
  CLI::App app{"gigaGPT: train GPT models on the machine you have", "gigagpt"};
  CLI::App* prepare = add_command("prepare", "Turn text into a data set", kPrepareHelp);
  CLI::App* plan = add_command("plan", "Say what training would take", kPlanHelp);
  CLI::App* check = add_command("check", "Hold a model to what training counts on", kCheckHelp);
  CLI::App* coordinates = add_command(
      "coordinates", "Show how a model's activations grow with its width", kCoordinatesHelp);
  CLI::App* train = add_command("train", "Train a GPT", kTrainHelp);
  CLI::App* eval = add_command("eval", "Report the loss on validation data", kEvalHelp);
  CLI::App* sample = add_command("sample", "Continue a prompt with a trained model", kSampleHelp);
  CLI::App* inspect =
      add_command("inspect", "Say what a run's file or folder holds, and check it", kInspectHelp);
  CLI::App* exporting = add_command("export", "Write a checkpoint for other programs", kExportHelp);
  CLI::App* tokenizer = add_command("tokenizer", "Train or try a tokenizer", kTokenizerHelp);
  CLI::App* plot = add_command("plot", "Draw the losses of runs", kPlotHelp);
  CLI::App* law = add_command("law", "Predict losses by a scaling law", kLawHelp);
  CLI::App* law_predict = law->add_subcommand("predict", "Say what loss a run comes to");
  CLI::App* law_fit = law->add_subcommand("fit", "Fit a law to finished runs");
  CLI::App* law_ratio = law->add_subcommand("ratio", "Find how many tokens a parameter are best");
  CLI::App* law_choose = law->add_subcommand("choose", "Choose a model for a budget");
  CLI::App* tokenizer_train = tokenizer->add_subcommand("train", "Learn byte pairs from text");
  CLI::App* tokenizer_encode = tokenizer->add_subcommand("encode", "Print the tokens of text");
  CLI::App* tokenizer_decode = tokenizer->add_subcommand("decode", "Print the text of tokens");
  std::string config_file;
  std::vector<std::string> paths;  // of eval, sample and export
  Flags flags;

  CLI::App* add_command(const char* name, const char* what, const char* help) {
    CLI::App* command = app.add_subcommand(name, what);
    command->footer(help);
    return command;
  }

  void add_tokenizer_flags(TokenizerArguments& arguments) {
    tokenizer_train->footer(kTokenizerTrainHelp);
    for (CLI::App* command : {tokenizer_train, tokenizer_encode, tokenizer_decode}) {
      const bool training = command == tokenizer_train;
      command->allow_extras();
      add_value(*command, "--input", arguments.inputs,
                training ? kInputHelp : "file to read; may be repeated [standard input]");
      if (training) continue;
      add_value(*command, "--tokenizer", arguments.tokenizer,
                "folder with tokenizer.json, or vocab.json and merges.txt, or such a file");
    }
    add_flags(*tokenizer_train, arguments.train_options(), "Options", flags);
    tokenizer_encode->add_flag("--special", arguments.special,
                               "<|endoftext|> in the text becomes that token");
  }

  explicit Parser(Arguments& arguments) {
    app.footer("Every command has --help. Start with ./quickstart, or with `prepare`.\n");
    app.get_formatter()->column_width(30);
    app.set_version_flag("--version", "gigagpt " GIGAGPT_VERSION);
    app.allow_extras();
    for (CLI::App* command :
         {prepare, plan, check, coordinates, train, eval, sample, inspect, exporting, tokenizer,
          law, law_predict, law_fit, law_ratio, law_choose, plot})
      command->allow_extras();
    add_tokenizer_flags(arguments.tokenizer);
    add_value(*prepare, "--input", arguments.prepare.inputs, kInputHelp);
    prepare->add_flag("--stats", arguments.prepare.stats,
                      "print figures; without --out nothing is written");
    add_flags(*prepare, arguments.prepare.options(), "Options", flags);
    add_flags(*sample, arguments.sample.options(), "Options", flags);
    add_flags(*exporting, arguments.exporting.options(), "Options", flags);
    add_value(*law_fit, "run", arguments.law.runs, "out_dir of a finished run; four or more");
    add_flags(*law_fit, arguments.law.fit_options(), "Options", flags);
    add_value(*law_ratio, "run", arguments.law.runs, "out_dir of a finished run; six or more");
    add_flags(*law_ratio, arguments.law.ratio_options(), "Options", flags);
    add_value(*plot, "run", arguments.plot.runs, "out_dir of a run; may be repeated");
    add_flags(*plot, arguments.plot.options(), "Options", flags);
    add_flags(*coordinates, arguments.coordinates.options(), "Options", flags);
    add_flags(*law_choose, arguments.law.choose_options(), "Options", flags);
    for (CLI::App* command : {plan, check, coordinates, train, law_predict, law_choose})
      add_value(*command, "config", config_file, "YAML file of config keys");
    plan->add_flag("--measure", arguments.measure, "measure this machine again");
    train->add_flag("--dry_run", arguments.dry_run,
                    "print the configuration and parameter count, then stop");
    add_value(*train, "--log_steps", arguments.log_steps, "print a line every so many steps [1]")
        ->check(CLI::PositiveNumber.name(""));
    train->add_flag("--profile", arguments.profile,
                    "print where the time of the steps after the first went, op by op");
    train
        ->add_option("--trace", arguments.trace_file,
                     "write a time line of the last million ops, Chrome trace JSON")
        ->take_last()
        ->type_name("FILE");
    add_value(*eval, "path", paths, "a checkpoint or a run's out_dir; a YAML file of config keys");
    add_value(*sample, "path", paths,
              "a checkpoint, or a run's out_dir; latest: the newest in out");
    add_value(*exporting, "path", paths, "a checkpoint, or a run's out_dir");
    add_value(*inspect, "path", arguments.inspect_path, "what to look at");
    for (CLI::App* command : {plan, check, coordinates, train, eval, law_predict, law_choose}) {
      GPTConfig defaults;
      add_flags(*command, defaults.options(), "Config keys, each with its default", flags);
      for (const std::string& family : GPTConfig::families()) {
        defaults.model = family;
        auto options = defaults.options();
        std::erase_if(options, [&](const Option& option) {
          return command->get_option_no_throw("--" + option.name) != nullptr;
        });
        add_flags(*command, options, ("Config keys of model: " + family).c_str(), flags);
      }
    }
  }
};

// Hours may pass before the file is written, so what can be known of it is said at once.
void check_trace_file(const Path& file) {
  if (file.empty()) fail("--trace needs the name of a file");
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored) || !file.has_filename())
    fail("--trace: {} is a directory, not a file", file.string());
  const Path parent = file.has_parent_path() ? file.parent_path() : Path(".");
  if (::access(parent.c_str(), W_OK | X_OK) != 0)
    fail_errno("--trace: cannot create " + file.string());
}

void refuse_extras(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) refuse_extras(*command);
  if (!app.remaining().empty()) fail_extra(app, app.remaining().front());
}

// What a command cannot do without.
void check_needed(const Parser& parser, const Arguments& arguments) {
  const TokenizerArguments& tokenizer = arguments.tokenizer;
  const bool any_action = !parser.tokenizer->get_subcommands().empty();
  const bool config = !parser.config_file.empty();
  const char* no_tokenizer = "tokenizer encode and decode need --tokenizer DIR";
  const std::vector<std::tuple<const CLI::App*, bool, const char*>> needs = {
      {parser.tokenizer, any_action,
       "tokenizer needs one of train, encode and decode; see gigagpt tokenizer --help"},
      {parser.tokenizer_train, !tokenizer.inputs.empty(),
       "tokenizer train needs at least one --input FILE"},
      {parser.tokenizer_train, !tokenizer.out.empty(), "tokenizer train needs --out DIR"},
      {parser.tokenizer_encode, !tokenizer.tokenizer.empty(), no_tokenizer},
      {parser.tokenizer_decode, !tokenizer.tokenizer.empty(), no_tokenizer},
      {parser.plan, config, "plan needs a config file, e.g. gigagpt plan configs/13b.yaml"},
      {parser.check, config, "check needs a config file, e.g. gigagpt check configs/111m.yaml"},
      {parser.coordinates, config,
       "coordinates needs a config file, e.g. gigagpt coordinates "
       "configs/cerebras-gpt-mup/111m.yaml"},
      {parser.plot, !arguments.plot.runs.empty() && !arguments.plot.out.empty(),
       "plot needs runs and --out, e.g. gigagpt plot out/quickstart --out loss.svg"},
      {parser.law, !parser.law->get_subcommands().empty(),
       "law needs one of predict, fit, ratio and choose; see gigagpt law --help"},
      {parser.law_fit, !arguments.law.runs.empty(),
       "law fit needs runs, e.g. gigagpt law fit out/scaling_law/*-seed?"},
      {parser.law_ratio, !arguments.law.runs.empty(),
       "law ratio needs runs, e.g. gigagpt law ratio out/scaling_law/ratios/*"},
      {parser.law_predict, config,
       "law predict needs a config file, e.g. gigagpt law predict configs/cerebras-gpt/111m.yaml"},
      {parser.law_choose, config,
       "law choose needs a config file, e.g. gigagpt law choose configs/scaling_law.yaml --hours "
       "1"},
      {parser.law_choose, arguments.law.hours.has_value() != arguments.law.flops.has_value(),
       "law choose needs --hours H or --flops F"},
      {parser.train, config,
       "train needs a config file, e.g. gigagpt train configs/quickstart.yaml"},
      {parser.eval, parser.flags.contains("checkpoint_path"),
       "eval needs a checkpoint, e.g. gigagpt eval out/quickstart"},
      {parser.sample, !arguments.sample.checkpoint_path.empty(),
       "sample needs a checkpoint, e.g. gigagpt sample out/quickstart"},
      {parser.exporting, !arguments.exporting.checkpoint_path.empty(),
       "export needs a checkpoint, e.g. gigagpt export out/quickstart --gguf model.gguf"},
      {parser.exporting, arguments.exporting.gguf.empty() != arguments.exporting.hf.empty(),
       "export needs --gguf FILE or --hf DIR"},
      {parser.inspect, !arguments.inspect_path.empty(),
       "inspect needs a path, e.g. gigagpt inspect out/quickstart"},
      {parser.prepare, !arguments.prepare.inputs.empty(),
       "prepare needs at least one --input FILE"},
      {parser.prepare, !arguments.prepare.out.empty() || arguments.prepare.stats,
       "prepare needs --out DIR, or --stats"}};
  for (const auto& [command, given, what] : needs) {
    if (*command && !given) fail("{}", what);
  }
}

// A checkpoint is given by a flag or without one; what eval is given besides is a config file.
void place_paths(Parser& parser) {
  for (const std::string& path : parser.paths) {
    std::error_code ignored;
    const bool config = *parser.eval && (path.ends_with(".yaml") || path.ends_with(".yml") ||
                                         std::filesystem::is_regular_file(path, ignored));
    if (config && parser.config_file.empty()) {
      parser.config_file = path;
    } else if (!parser.flags.emplace("checkpoint_path", path).second) {
      fail("'{}' is one argument too many: the checkpoint is '{}' already", path,
           parser.flags["checkpoint_path"]);
    }
  }
}

void check_parsed(const Parser& parser, const Arguments& arguments) {
  if (parser.app.get_subcommands().empty()) {
    std::vector<std::string> names;
    for (const CLI::App* command : parser.app.get_subcommands(nullptr))
      names.push_back(command->get_name());
    fail("a command is needed: {}; see gigagpt --help", fmt::join(names, ", "));
  }
  check_needed(parser, arguments);
  if (parser.train->count("--trace") > 0) check_trace_file(arguments.trace_file);
}

TokenizerArguments::Action action_of(const Parser& parser) {
  using Action = TokenizerArguments::Action;
  return *parser.tokenizer_train    ? Action::kTrain
         : *parser.tokenizer_encode ? Action::kEncode
                                    : Action::kDecode;
}

Arguments::Command command_of(const Parser& parser) {
  using Command = Arguments::Command;
  const std::vector<std::pair<const CLI::App*, Command>> commands = {
      {parser.tokenizer, Command::kTokenizer},
      {parser.prepare, Command::kPrepare},
      {parser.plan, Command::kPlan},
      {parser.check, Command::kCheck},
      {parser.coordinates, Command::kCoordinates},
      {parser.train, Command::kTrain},
      {parser.eval, Command::kEval},
      {parser.sample, Command::kSample},
      {parser.law, Command::kLaw},
      {parser.plot, Command::kPlot},
      {parser.exporting, Command::kExport},
      {parser.inspect, Command::kInspect}};
  for (const auto& [app, command] : commands) {
    if (*app) return command;
  }
  GIGAGPT_ASSERT(false);
  return Command::kInspect;
}

}  // namespace

const char* program_version() {
  return GIGAGPT_VERSION;
}

Arguments parse_arguments(int argc, char** argv) {
  Arguments arguments;
  Parser parser(arguments);
  try {
    parser.app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    std::exit(parser.app.exit(help));
  } catch (const CLI::ArgumentMismatch& error) {
    fail("a value is missing: {}", error.what());
  } catch (const CLI::ParseError& error) {
    fail("{}", error.what());
  }
  refuse_extras(parser.app);
  place_paths(parser);
  set_flags(arguments.prepare.options(), *parser.prepare ? parser.flags : Flags());
  set_flags(arguments.tokenizer.train_options(), *parser.tokenizer ? parser.flags : Flags());
  set_flags(arguments.sample.options(), *parser.sample ? parser.flags : Flags());
  set_flags(arguments.exporting.options(), *parser.exporting ? parser.flags : Flags());
  set_flags(arguments.plot.options(), *parser.plot ? parser.flags : Flags());
  arguments.law.action = *parser.law_fit      ? LawArguments::Action::kFit
                         : *parser.law_ratio  ? LawArguments::Action::kRatio
                         : *parser.law_choose ? LawArguments::Action::kChoose
                                              : LawArguments::Action::kPredict;
  // Of commands that have config keys besides.
  const auto take = [&](const CLI::App* command, const std::vector<Option>& own) {
    if (!*command) return;
    set_flags(own, parser.flags);
    for (const Option& option : own) parser.flags.erase(option.name);
  };
  take(parser.coordinates, arguments.coordinates.options());
  take(parser.law_fit, arguments.law.fit_options());
  take(parser.law_ratio, arguments.law.ratio_options());
  take(parser.law_choose, arguments.law.choose_options());
  // Any text is a prompt, the empty one and "null" too.
  const auto prompt = parser.flags.find("prompt");
  if (prompt != parser.flags.end()) arguments.sample.prompt = prompt->second;
  check_parsed(parser, arguments);
  arguments.command = command_of(parser);
  arguments.tokenizer.action = action_of(parser);
  if (*parser.plan || *parser.check || *parser.coordinates || *parser.train || *parser.eval ||
      *parser.law) {
    if (!parser.config_file.empty()) {
      arguments.settings = read_yaml(parser.config_file, arguments.notes);
    }
    for (const auto& [key, value] : parser.flags) {
      arguments.settings.push_back({key, value, "--" + key});
    }
  }
  return arguments;
}

namespace {

bool has_option(const std::vector<Option>& options, const std::string& key) {
  return std::ranges::count(options, key, &Option::name) > 0;
}

// Throws Error for a key that only another family of models has.
void refuse_other_family(const std::string& key, const GPTConfig& config) {
  for (const std::string& family : GPTConfig::families()) {
    GPTConfig other;
    other.model = family;
    if (has_option(other.options(), key))
      fail("{}: a key of model: {}, but model is {}", key, family, config.model);
  }
}

}  // namespace

void apply_settings(const std::vector<Setting>& settings, GPTConfig& config) {
  const auto apply = [&](const std::vector<Option>& options, const Setting& setting) {
    const bool flag = setting.origin == "--" + setting.key;  // the message begins with the key
    try {
      if (!has_option(options, setting.key)) refuse_other_family(setting.key, config);
      set_option(find_option(options, setting.key), setting.value);
    } catch (const Error& error) {
      fail("{}{}{}", flag ? "--" : setting.origin, flag ? "" : ": ", error.what());
    }
  };
  // Which keys there are depends on the family.
  for (const Setting& setting : settings) {
    if (setting.key == "model") apply(config.options(), setting);
  }
  const auto options = config.options();
  for (const Setting& setting : settings) apply(options, setting);
}

}  // namespace gigagpt::cli
