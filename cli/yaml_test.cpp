// Config files: gigaGPT's flat and nested layouts as published, our own, and mistakes in them.
#include "cli/yaml.h"

#include <gtest/gtest.h>

#include "base/testing.h"

namespace gigagpt::cli {
namespace {

using Notes = std::vector<std::string>;

// The settings of a config as lines "key=value", without their origins.
std::vector<std::string> lines_of(const std::vector<Setting>& settings) {
  std::vector<std::string> lines;
  for (const Setting& setting : settings) lines.push_back(setting.key + "=" + setting.value);
  return lines;
}

std::vector<Setting> read(const std::string& text, Notes* notes = nullptr) {
  const TemporaryDirectory directory;
  Notes ignored;
  return read_yaml(directory.write("c.yaml", text), notes != nullptr ? *notes : ignored);
}

GPTConfig config_of(const std::string& text) {
  GPTConfig config;
  apply_settings(read(text), config);
  return config;
}

constexpr const char* kFlat = R"(# model params
width: 12288
depth: 96
max_position_embeddings: 2048
heads: 96
init_std: 0.005

# run params
out_dir: model_dir
dataset: /path/to/openwebtext
batch_size: 1472
sequence_length: 2048
num_steps: 663425
checkpoint_steps: 1000
learning_rate: 5.0e-6
warmup_steps: 3317
adam_epsilon: 1.0e-10
backend: "CSX"
mount_dirs:
  - /path/to/data
  - /path/to/gigagpt
python_paths:
  - /path/to/gigagpt
execute_crd_memory_gi: 100
)";

TEST(Yaml, FlatConfigAsPublished) {
  Notes notes;
  EXPECT_EQ(
      lines_of(read(kFlat, &notes)),
      (Notes{"width=12288", "depth=96", "max_position_embeddings=2048", "heads=96",
             "init_std=0.005", "out_dir=model_dir", "dataset=/path/to/openwebtext",
             "batch_size=1472", "sequence_length=2048", "num_steps=663425", "checkpoint_steps=1000",
             "learning_rate=5.0e-6", "warmup_steps=3317", "adam_epsilon=1.0e-10"}));
  ASSERT_EQ(notes.size(), 1U);
  for (const char* key : {"backend", "mount_dirs", "python_paths", "execute_crd_memory_gi"}) {
    EXPECT_NE(notes[0].find(key), std::string::npos) << notes[0];
  }
  const GPTConfig config = config_of(kFlat);
  config.check();
  EXPECT_EQ(config.width, 12288);
  EXPECT_EQ(config.parametrisation.init_std, 0.005);
  EXPECT_EQ(config.optim.learning_rate, 5e-6);
  EXPECT_EQ(config.optim.adam_epsilon, 1e-10);
  EXPECT_EQ(config.vocab_size, 50257);  // the default
}

constexpr const char* kNested = R"(trainer:
  init:
    seed: 1
    backend: 
      backend_type: 'CSX'
      cluster_config:
        max_act_per_csx: 1
        num_csx: 1        
        mount_dirs:
         - /path/to/code/location
        python_paths:
         - /path/to/code/location
        mgmt_address: 172.31.63.134:9000
    model:
      width: 2048
      depth: 24
      max_position_embeddings: 2048
      heads: 16
      vocab_size: 50257
      dropout: 0.0
      bias: True
      init_std: 0.01
    model_dir: 'out_dir/'
    loop:
      num_steps: 24334
    checkpoint:
      steps: 2000
    precision:
      precision_opt_level: 1
      max_gradient_norm: 1.0
    optimizer:
      AdamW:
        learning_rate: 2.0e-4
        weight_decay: 0.1
        eps: 1.0e-9
    schedulers:
      SequentialLR:
        schedulers:
          - LinearLR:
              initial_learning_rate: 0.0
              end_learning_rate: 2.0e-4
              total_iters: 346
          - CosineDecayLR:
              initial_learning_rate: 2.0e-4
              end_learning_rate: 6.0e-5
              total_iters: 23988
    loggers:
      - TensorBoardLogger: {}     
  fit:
    train_dataloader:
      data_dir: /path/to/train/dataset
      sequence_length: 2048
      batch_size: 528      
      seed: 1    
  validate:
    val_dataloader:
      data_dir: /path/to/val/dataset
      sequence_length: 2048
      batch_size: 528      
      seed: 1
    ckpt_path: /path/to/checkpoint/file
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t place = text.find(from);
  EXPECT_NE(place, std::string::npos) << from;
  return text.replace(place, from.size(), to);
}

TEST(Yaml, NestedConfigAsPublished) {
  Notes notes;
  EXPECT_EQ(lines_of(read(kNested, &notes)), (Notes{"seed=1",
                                                    "width=2048",
                                                    "depth=24",
                                                    "max_position_embeddings=2048",
                                                    "heads=16",
                                                    "vocab_size=50257",
                                                    "dropout=0.0",
                                                    "bias=True",
                                                    "init_std=0.01",
                                                    "out_dir=out_dir/",
                                                    "num_steps=24334",
                                                    "checkpoint_steps=2000",
                                                    "max_gradient_norm=1.0",
                                                    "learning_rate=2.0e-4",
                                                    "weight_decay=0.1",
                                                    "adam_epsilon=1.0e-9",
                                                    "warmup_steps=346",
                                                    "decay_steps=23988",
                                                    "dataset=/path/to/train/dataset",
                                                    "sequence_length=2048",
                                                    "batch_size=528"}));
  EXPECT_EQ(notes.size(), 1U);
  const GPTConfig config = config_of(kNested);
  config.check();
  EXPECT_TRUE(config.bias);
  EXPECT_EQ(config.optim.decay_steps, 23988);
  EXPECT_EQ(config.seed, 1);
}

TEST(Yaml, NestedDecayOfAllThatIsLeftIsTheDefault) {
  const std::string text =
      replaced(kNested, "total_iters: 23988", "total_iters: num_steps - total_iters");
  const GPTConfig config = config_of(text);
  EXPECT_FALSE(config.optim.decay_steps.has_value());
  EXPECT_EQ(config.optim.warmup_steps, 346);
}

TEST(Yaml, NestedDatasetMayNameTheFile) {
  const std::string text =
      replaced(kNested, "data_dir: /path/to/train/dataset", "data_dir: /data/owt/train.bin");
  EXPECT_EQ(config_of(text).dataset, "/data/owt");
}

TEST(Yaml, NestedMistakesNameTheLine) {
  EXPECT_ERROR(read(replaced(kNested, "loop:", "loops:")),
               "c.yaml:25: unknown key 'trainer.init.loops.num_steps'");
  EXPECT_ERROR(config_of(replaced(kNested, "width: 2048", "widht: 2048")),
               "c.yaml:15: unknown key 'widht'; did you mean 'width'?");
  EXPECT_ERROR(config_of(replaced(kNested, "depth: 24", "depth: many")),
               "c.yaml:16: depth: 'many' is not a whole number");
  EXPECT_ERROR(config_of(replaced(kNested, "width: 2048", "width: [1, 2]")), "c.yaml:15: ");
  EXPECT_ERROR(read(std::string(kNested) + "extra: 1\n"), "c.yaml:62: unknown key 'extra'");
  EXPECT_ERROR(read("trainer: 5\n"), "c.yaml:1: unknown key 'trainer'");
}

TEST(Yaml, NestedKeyGivenTwiceIsRefused) {
  EXPECT_ERROR(read(replaced(kNested, "depth: 24", "width: 1024")), "c.yaml:16: ");
  EXPECT_ERROR(read("trainer:\n  init:\n    seed: 1\n  init:\n    seed: 2\n"), "c.yaml:4: ");
  EXPECT_ERROR(read("trainer:\n  init:\n    seed: 1\ntrainer:\n"), "c.yaml:4: ");
}

TEST(YamlDeathTest, NestedAliasOfItselfIsRefused) {
  const auto read_cycle = [] {
    EXPECT_ERROR(read("trainer: &t\n  init: *t\n"), "c.yaml");
    std::exit(testing::Test::HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(read_cycle(), testing::ExitedWithCode(0), "");
}

TEST(Yaml, NestedAliasesThatMakeBillionsOfValuesAreRefused) {
  for (const char* leaf : {"x", "{}", "{b: }"}) {
    std::string text = fmt::format("trainer:\n  k0: &k0 [{0}, {0}, {0}]\n", leaf);
    for (int i = 1; i <= 13; ++i) {
      text += fmt::format("  k{0}: &k{0} [*k{1}, *k{1}, *k{1}, *k{1}, *k{1}]\n", i, i - 1);
    }
    EXPECT_ERROR(read(text), "more than 2000 values");
  }
}

TEST(Yaml, SettingsCarryFileAndLine) {
  const TemporaryDirectory directory;
  const Path path = directory.write("c.yaml", "# comment\n\nwidth: 5\ndepth:\n  3\n");
  Notes notes;
  const auto settings = read_yaml(path, notes);
  ASSERT_EQ(settings.size(), 2U);
  EXPECT_EQ(settings[0].origin, path.string() + ":3");
  EXPECT_EQ(settings[1].origin, path.string() + ":4");
  EXPECT_EQ(settings[1].value, "3");
  EXPECT_TRUE(notes.empty());
}

TEST(Yaml, ValuesKeepTheirSpelling) {
  EXPECT_EQ(
      lines_of(read("a: 'x: y'\nb: \"\\u00e9\"\nc: 1_0\nd: True\ne: 007 # note\nf: 1.0e-10\n")),
      (Notes{"a=x: y", "b=\xC3\xA9", "c=1_0", "d=True", "e=007", "f=1.0e-10"}));
}

TEST(Yaml, EverySpellingOfNullUnsets) {
  for (const char* null : {"null", "~", "", "None"}) {
    GPTConfig config;
    config.optim.decay_steps = 5;
    apply_settings(read(fmt::format("decay_steps: {}\n", null)), config);
    EXPECT_FALSE(config.optim.decay_steps.has_value()) << null;
  }
}

TEST(Yaml, EverySpellingOfABoolean) {
  for (const char* text : {"True", "true", "TRUE", "yes", "on"}) {
    EXPECT_TRUE(config_of(fmt::format("bias: {}\n", text)).bias) << text;
  }
  for (const char* text : {"False", "false", "FALSE", "no", "off"}) {
    EXPECT_FALSE(config_of(fmt::format("bias: {}\n", text)).bias) << text;
  }
}

TEST(Yaml, EmptyFileHasNoSettings) {
  EXPECT_TRUE(read("").empty());
  EXPECT_TRUE(read("# only a comment\n").empty());
  EXPECT_TRUE(read("{}").empty());
}

TEST(Yaml, FlatMistakesNameTheLine) {
  EXPECT_ERROR(config_of("depth: 1\nwidht: 2\n"),
               "c.yaml:2: unknown key 'widht'; did you mean 'width'?");
  EXPECT_ERROR(config_of("width: 2\ndepth: 0\n"), "c.yaml:2: depth: 0 must be at least 1");
  EXPECT_ERROR(config_of("dropout: high\n"), "c.yaml:1: dropout: 'high' is not a number");
  EXPECT_ERROR(config_of("decay_steps: 0\n"), "c.yaml:1: decay_steps: 0 must be at least 1");
  EXPECT_ERROR(config_of("width: null\n"), "c.yaml:1: width: 'null' is not a whole number");
  EXPECT_ERROR(read("width: 2\ndepth: 1\nwidth: 2\n"), "c.yaml:3: key 'width' appears twice");
  EXPECT_ERROR(read("backend: CPU\nbackend: CSX\n"), "c.yaml:2: key 'backend' appears twice");
  EXPECT_ERROR(read("depth: 1\nwidth: [1, 2]\n"), "c.yaml:2: width must be a single value");
  EXPECT_ERROR(read("depth: 1\nwidth:\n  a: 1\n"), "c.yaml:2: width must be a single value");
  EXPECT_ERROR(read("depth: 1\nwidths: [1, 2]\n"), "c.yaml:2: unknown key 'widths'; did you mean");
  EXPECT_ERROR(read("depth: 1\n[a, b]: 2\n"), "c.yaml:2: a key must be a name");
}

TEST(Yaml, HostsMayBeAList) {
  for (const char* text : {"hosts: a,b:2\n", "hosts: [a, b:2]\n", "hosts:\n- a\n- b:2\n"}) {
    const auto settings = read(text);
    ASSERT_EQ(settings.size(), 1U) << text;
    EXPECT_EQ(settings[0].value, "a,b:2") << text;
  }
  EXPECT_ERROR(read("depth: 1\nhosts: {a: 2}\n"), "c.yaml:2: hosts must be a single value");
  EXPECT_ERROR(read("depth: 1\nhosts:\n- a\n- b: 2\n"),
               "c.yaml:2: hosts must be a list of names like a or b:2");
}

TEST(Yaml, WhatIsNoListOfKeysIsRefused) {
  for (const char* text : {"- 1\n- 2\n", "just text\n", "5\n", "[]\n"}) {
    EXPECT_ERROR(read(text), "c.yaml: a config is a list") << text;
  }
}

TEST(Yaml, BadYamlNamesTheLine) {
  EXPECT_ERROR(read("a: 1\nb: [1, 2\n"), "c.yaml:");
  EXPECT_ERROR(read("a: 1\n  b: 2\n"), "c.yaml:2: ");
  EXPECT_ERROR(read("a: 1\nb: *nobody\n"), "c.yaml:2: ");
  EXPECT_ERROR(read("a: 1\n\tb: 2\n"), "c.yaml:2: ");
  EXPECT_ERROR(read(std::string(100000, '[')), "c.yaml:1: ");
  Notes notes;
  EXPECT_ERROR(read_yaml("no/such.yaml", notes), "cannot open no/such.yaml");
}

// A checkpoint's weights, say, given in place of the config.
TEST(Yaml, LargeFileIsRefusedUnread) {
  const TemporaryDirectory directory;
  const Path path = directory.write("model.safetensors", "x");
  std::filesystem::resize_file(path, uint64_t{1} << 40);  // of no blocks
  Notes notes;
  EXPECT_ERROR(read_yaml(path, notes),
               path.string() + ": 1099511627776 bytes are too many for a config");
}

TEST(Yaml, DamagedFilesNeverCrash) {
  std::mt19937_64 random(11);
  const TemporaryDirectory directory;
  for (int i = 0; i < 1500; ++i) {
    const std::string text = damaged(i % 2 == 0 ? kFlat : kNested, random);
    ASSERT_TRUE(returns_or_throws_error([&] {
      Notes notes;
      GPTConfig config;
      apply_settings(read_yaml(directory.write("c.yaml", text), notes), config);
      config.check();
      GPTConfig again;
      for (const auto& [key, value] : option_texts(config.options())) {
        set_option(find_option(again.options(), key), value);
      }
      EXPECT_EQ(option_texts(again.options()), option_texts(config.options()));
    })) << text;
  }
}

TEST(Configs, EveryFileInTheRepositoryLoads) {
  size_t files = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(Path(GIGAGPT_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    try {
      Notes notes;
      GPTConfig config;
      apply_settings(read_yaml(entry.path(), notes), config);
      config.check();
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
  EXPECT_GT(files, 0U);
}

}  // namespace
}  // namespace gigagpt::cli
