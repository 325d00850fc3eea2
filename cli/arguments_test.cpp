// The command line: what each command takes, what wins, and errors that name the nearest flag.
#include "cli/arguments.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/testing.h"

namespace gigagpt::cli {
namespace {

using Command = Arguments::Command;

Arguments parse(std::vector<std::string> words) {
  words.insert(words.begin(), "gigagpt");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return parse_arguments(static_cast<int>(words.size()), argv.data());
}

TEST(Arguments, TrainTakesTheFileThenTheFlags) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "width: 64\ndepth: 3\nbackend: CPU\n");
  const Arguments arguments =
      parse({"train", file, "--width", "128", "--dry_run", "--log_steps", "7"});
  EXPECT_EQ(arguments.command, Command::kTrain);
  EXPECT_TRUE(arguments.dry_run);
  EXPECT_EQ(arguments.log_steps, 7);
  EXPECT_EQ(arguments.notes.size(), 1U);
  ASSERT_EQ(arguments.settings.size(), 3U);
  EXPECT_EQ(arguments.settings[0].origin, file + ":1");
  EXPECT_EQ(arguments.settings[2].key, "width");
  EXPECT_EQ(arguments.settings[2].value, "128");
  EXPECT_EQ(arguments.settings[2].origin, "--width");
  GPTConfig config;
  apply_settings(arguments.settings, config);
  EXPECT_EQ(config.width, 128);
  EXPECT_EQ(config.depth, 3);
}

TEST(Arguments, ProfileAndTraceAreForTrain) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "width: 64\n");
  const std::string trace = (directory / "trace.json").string();
  const Arguments plain = parse({"train", file});
  EXPECT_FALSE(plain.profile);
  EXPECT_EQ(plain.trace_file, "");
  const Arguments both = parse({"train", file, "--profile", "--trace", trace, "--width", "5"});
  EXPECT_TRUE(both.profile);
  EXPECT_EQ(both.trace_file, trace);
  EXPECT_EQ(both.settings.size(), 2U) << "they are no config keys";
  EXPECT_EQ(parse({"train", file, "--trace", trace, "--trace", trace + "2"}).trace_file,
            trace + "2");
  EXPECT_FALSE(std::filesystem::exists(trace)) << "only looked at";
  EXPECT_ERROR(parse({"eval", "--checkpoint_path", "x", "--profile"}), "unknown flag '--profile'");
  EXPECT_ERROR(parse({"sample", "--checkpoint_path", "x", "--trace", "t"}),
               "unknown flag '--trace'");
  EXPECT_ERROR(parse({"train", file, "--profil"}), "did you mean '--profile'?");
}

TEST(Arguments, ATraceThatCannotBeWrittenIsRefusedAtOnce) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "");
  const std::string missing = (directory / "no" / "trace.json").string();
  EXPECT_ERROR(parse({"train", file, "--trace", missing}),
               "--trace: cannot create " + missing + ": No such file or directory");
  EXPECT_ERROR(parse({"train", file, "--trace", file + "/trace.json"}), "--trace: cannot create");
  const std::string folder = directory.path().string();
  EXPECT_ERROR(parse({"train", file, "--trace", folder}), folder + " is a directory, not a file");
  EXPECT_ERROR(parse({"train", file, "--trace", folder + "/"}), "is a directory, not a file");
  EXPECT_ERROR(parse({"train", file, "--trace", ""}), "--trace needs the name of a file");
  EXPECT_ERROR(parse({"train", file, "--trace"}), "--trace");
}

TEST(Arguments, EveryConfigKeyIsAFlagOfTrainAndEval) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "");
  GPTConfig defaults;
  for (const Option& option : defaults.options()) {
    for (const char* command : {"train", "eval"}) {
      std::vector<std::string> words = {command, file, "--" + option.name, "17"};
      if (option.name != "checkpoint_path") {
        words.insert(words.end(), {"--checkpoint_path", "out"});
      }
      const Arguments arguments = parse(words);
      bool found = false;
      for (const Setting& setting : arguments.settings) {
        found |= setting.key == option.name && setting.value == "17";
      }
      EXPECT_TRUE(found) << command << " --" << option.name;
    }
  }
}

TEST(Arguments, FlagsTakeNegativeAndJoinedValues) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "");
  GPTConfig config;
  apply_settings(parse({"train", "--width=96", file, "--bias", "False"}).settings, config);
  EXPECT_EQ(config.width, 96);
  EXPECT_FALSE(config.bias);
  const Arguments negative = parse({"train", file, "--learning_rate", "-1"});
  EXPECT_ERROR(apply_settings(negative.settings, config), "--learning_rate: -1 must be at least 0");
}

TEST(Arguments, EvalNeedsACheckpointAndMayHaveAFile) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "width: 64\n");
  EXPECT_ERROR(parse({"eval"}), "eval needs a checkpoint, e.g. gigagpt eval out/quickstart");
  EXPECT_ERROR(parse({"eval", file}), "eval needs a checkpoint, e.g. gigagpt eval out/quickstart");
  const Arguments alone = parse({"eval", "--checkpoint_path", "out/x"});
  EXPECT_EQ(alone.command, Command::kEval);
  EXPECT_EQ(alone.settings.size(), 1U);
  EXPECT_EQ(parse({"eval", file, "--checkpoint_path", "out/x"}).settings.size(), 2U);
}

TEST(Arguments, SampleHasItsOwnFlags) {
  const Arguments arguments =
      parse({"sample", "--checkpoint_path", "out/x", "--prompt", "In the \"beginning\", [a, b]",
             "--temperature", "0", "--top_k", "5", "--max_length", "9", "--num_samples", "2",
             "--seed", "3", "--no_repeat_ngram_size", "4", "--precision", "fp32"});
  EXPECT_EQ(arguments.command, Command::kSample);
  const SampleArguments& sample = arguments.sample;
  EXPECT_EQ(sample.checkpoint_path, "out/x");
  EXPECT_EQ(sample.prompt, "In the \"beginning\", [a, b]");
  EXPECT_EQ(sample.temperature, 0);
  EXPECT_EQ(sample.top_k, 5);
  EXPECT_EQ(sample.max_length, 9);
  EXPECT_EQ(sample.num_samples, 2);
  EXPECT_EQ(sample.seed, 3);
  EXPECT_EQ(sample.no_repeat_ngram_size, 4);
  EXPECT_EQ(sample.precision, "fp32");
  const SampleArguments defaults = parse({"sample", "--checkpoint_path", "out/x"}).sample;
  EXPECT_FALSE(defaults.prompt.has_value());
  EXPECT_FALSE(defaults.no_repeat_ngram_size.has_value());
}

TEST(Arguments, PromptMayBeginWithADash) {
  const auto prompt_of = [](const std::string& prompt) {
    return parse({"sample", "--checkpoint_path", "x", "--prompt", prompt}).sample.prompt;
  };
  EXPECT_EQ(prompt_of("- item"), "- item");
  EXPECT_EQ(prompt_of("-h"), "-h");
  EXPECT_EQ(prompt_of("--"), "--");
}

TEST(Arguments, TokenizerHasCommandsOfItsOwn) {
  using Action = TokenizerArguments::Action;
  const Arguments train = parse({"tokenizer", "train", "--input", "b.txt", "--input", "a.txt",
                                 "--vocab_size", "1000", "--out", "data/t"});
  EXPECT_EQ(train.command, Command::kTokenizer);
  EXPECT_EQ(train.tokenizer.action, Action::kTrain);
  EXPECT_EQ(train.tokenizer.inputs, (std::vector<std::string>{"b.txt", "a.txt"}));
  EXPECT_EQ(train.tokenizer.vocab_size, 1000);
  EXPECT_EQ(train.tokenizer.out, "data/t");
  const Arguments encode = parse({"tokenizer", "encode", "--tokenizer", "t", "--special"});
  EXPECT_EQ(encode.tokenizer.action, Action::kEncode);
  EXPECT_EQ(encode.tokenizer.tokenizer, "t");
  EXPECT_TRUE(encode.tokenizer.special);
  EXPECT_EQ(parse({"tokenizer", "decode", "--tokenizer", "t"}).tokenizer.action, Action::kDecode);
  EXPECT_ERROR(parse({"tokenizer"}), "tokenizer needs one of train, encode and decode");
  EXPECT_ERROR(parse({"tokenizer", "trian"}),
               "did you mean 'train'?; see gigagpt tokenizer --help");
  EXPECT_ERROR(parse({"tokenizer", "train", "--inptu", "x"}),
               "did you mean '--input'?; see gigagpt tokenizer train --help");
  EXPECT_ERROR(parse({"tokenizer", "train", "--input", "x"}), "tokenizer train needs --out DIR");
  EXPECT_ERROR(parse({"tokenizer", "train", "--out", "x"}), "at least one --input FILE");
  EXPECT_ERROR(parse({"tokenizer", "train", "--input", "x", "--out", "y", "--vocab_size", "256"}),
               "--vocab_size: 256 must be at least 257");
  EXPECT_ERROR(parse({"tokenizer", "encode"}), "need --tokenizer DIR");
}

TEST(Arguments, PrepareTakesSeveralInputsInOrder) {
  const Arguments arguments = parse({"prepare", "--input", "b.txt", "--input", "a.txt", "--out",
                                     "data/x", "--val_fraction", "0"});
  EXPECT_EQ(arguments.command, Command::kPrepare);
  EXPECT_EQ(arguments.prepare.inputs, (std::vector<std::string>{"b.txt", "a.txt"}));
  EXPECT_EQ(arguments.prepare.out, "data/x");
  EXPECT_EQ(arguments.prepare.val_fraction, 0);
  EXPECT_EQ(arguments.prepare.tokenizer, "char");
  EXPECT_TRUE(parse({"prepare", "--input", "b.txt", "--stats"}).prepare.stats);
}

TEST(Arguments, InspectTakesAPath) {
  const Arguments arguments = parse({"inspect", "out/x"});
  EXPECT_EQ(arguments.command, Command::kInspect);
  EXPECT_EQ(arguments.inspect_path, "out/x");
  EXPECT_ERROR(parse({"inspect"}), "inspect needs a path");
  EXPECT_ERROR(parse({"inspect", "a", "b"}), "unknown argument 'b'");
  EXPECT_ERROR(parse({"inspect", "a", "--width", "3"}), "unknown flag '--width'");
  EXPECT_ERROR(parse({"inspct", "a"}), "did you mean 'inspect'?");
}

TEST(Arguments, MissingPartsAreNamed) {
  EXPECT_ERROR(
      parse({}),
      "a command is needed: prepare, plan, check, coordinates, train, eval, sample, inspect, "
      "export, tokenizer, plot, law; see gigagpt --help");
  EXPECT_ERROR(parse({"train"}), "train needs a config file");
  EXPECT_ERROR(parse({"train", "--width", "5"}), "train needs a config file");
  EXPECT_ERROR(parse({"sample"}), "sample needs a checkpoint, e.g. gigagpt sample out/quickstart");
  EXPECT_ERROR(parse({"prepare"}), "prepare needs at least one --input FILE");
  EXPECT_ERROR(parse({"prepare", "--input", "a.txt"}), "prepare needs --out DIR");
  EXPECT_ERROR(parse({"train", "no/such.yaml"}), "cannot open no/such.yaml");
}

TEST(Arguments, UnknownWordsSuggestTheNearest) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "");
  EXPECT_ERROR(parse({"trian", file}), "unknown argument 'trian'; did you mean 'train'?");
  EXPECT_ERROR(parse({"train", file, "--widht", "5"}),
               "unknown flag '--widht'; did you mean '--width'?; see gigagpt train --help");
  EXPECT_ERROR(parse({"sample", "--checkpoint_path", "x", "--topk", "5"}),
               "unknown flag '--topk'; did you mean '--top_k'?");
  EXPECT_ERROR(parse({"prepare", "--inputs", "x"}), "did you mean '--input'?");
  EXPECT_ERROR(parse({"train", file, "second.yaml"}), "unknown argument 'second.yaml'");
  EXPECT_ERROR(parse({"--verison"}), "did you mean '--version'?");
}

TEST(Arguments, BadValuesNameTheFlag) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "");
  EXPECT_ERROR(parse({"sample", "--checkpoint_path", "x", "--top_k", "-1"}),
               "--top_k: -1 must be at least 0");
  EXPECT_ERROR(parse({"sample", "--checkpoint_path", "x", "--precision", "fp8"}),
               "--precision: 'fp8' is not one of auto, bf16, fp32");
  EXPECT_ERROR(parse({"prepare", "--input", "a", "--out", "b", "--val_fraction", "1"}),
               "--val_fraction: 1 must be at most 0.9");
  EXPECT_ERROR(parse({"prepare", "--input", "a", "--out", "b", "--split", "head"}),
               "--split: 'head' is not one of auto, documents, tail");
  for (const char* steps : {"0", "-1", "x", "1.5"}) {
    EXPECT_ERROR(parse({"train", file, "--log_steps", steps}), "log_steps") << steps;
  }
  EXPECT_ERROR(parse({"train", file, "--width"}), "--width");
}

TEST(Arguments, LastOfAFlagGivenTwiceCounts) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("c.yaml", "width: 4\n");
  GPTConfig config;
  apply_settings(parse({"train", file, "--width", "5", "--width", "6"}).settings, config);
  EXPECT_EQ(config.width, 6);
}

TEST(Arguments, AnyTextIsAPrompt) {
  for (const char* text : {"", "null", "~", "two words"}) {
    EXPECT_EQ(parse({"sample", "--checkpoint_path", "x", "--prompt", text}).sample.prompt, text);
  }
  EXPECT_FALSE(parse({"sample", "--checkpoint_path", "x"}).sample.prompt.has_value());
}

TEST(ArgumentsDeathTest, HelpAndVersionExitWithSuccess) {
  const auto print = [](const std::vector<std::string>& words) {
    ::dup2(STDERR_FILENO, STDOUT_FILENO);  // the death test reads standard error
    parse(words);
  };
  EXPECT_EXIT(print({"--version"}), testing::ExitedWithCode(0), "gigagpt [0-9]+\\.[0-9]+\\.[0-9]+");
  EXPECT_EXIT(print({"--help"}), testing::ExitedWithCode(0), "prepare");
  EXPECT_EXIT(print({"prepare", "--help"}), testing::ExitedWithCode(0), "val_fraction");
  EXPECT_EXIT(print({"sample", "--help"}), testing::ExitedWithCode(0), "no_repeat_ngram_size");
  EXPECT_EXIT(print({"inspect", "--help"}), testing::ExitedWithCode(0), "checksum");
}

TEST(ArgumentsDeathTest, HelpOfTrainHasEveryKeyWithItsDefault) {
  const TemporaryDirectory directory;
  const Path path = directory / "help";
  const auto print = [&] {
    if (std::freopen(path.c_str(), "w", stdout) == nullptr) std::exit(2);
    parse({"train", "--help"});
  };
  EXPECT_EXIT(print(), testing::ExitedWithCode(0), "");
  const std::string help = read_text(path);
  GPTConfig defaults;
  for (const Option& option : defaults.options()) {
    const size_t place = help.find("--" + option.name + " ");
    ASSERT_NE(place, std::string::npos) << option.name;
    EXPECT_LT(help.find("[" + option_text(option) + "]", place), help.find("--", place + 2))
        << option.name;
    EXPECT_NE(help.find(option.help.substr(0, 10), place), std::string::npos) << option.name;
  }
}

TEST(ApplySettings, LaterOnesWin) {
  GPTConfig config;
  apply_settings({{"width", "64", "a:1"}, {"depth", "2", "a:2"}, {"width", "96", "--width"}},
                 config);
  EXPECT_EQ(config.width, 96);
  EXPECT_EQ(config.depth, 2);
}

TEST(ApplySettings, ErrorsBeginWithTheOrigin) {
  GPTConfig config;
  const auto apply = [&](const char* key, const char* value) {
    apply_settings({{key, value, "x.yaml:3"}}, config);
  };
  EXPECT_ERROR(apply("hheads", "4"), "x.yaml:3: unknown key 'hheads'; did you mean 'heads'?");
  EXPECT_ERROR(apply("heads", "four"), "x.yaml:3: heads: 'four' is not a whole number");
  EXPECT_ERROR(apply("lr_decay", "step"), "x.yaml:3: lr_decay: 'step' is not one of");
}

}  // namespace
}  // namespace gigagpt::cli
