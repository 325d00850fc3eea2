// The flags of commands that are no config keys.
#include "cli/arguments.h"
#include "formats/bpe_trainer.h"

namespace gigagpt::cli {

std::vector<Option> PrepareArguments::options() {
  return {{"out", &out, "folder for the data set"},
          {"tokenizer", &tokenizer, "char, or a tokenizer's folder or file"},
          {"split", &split, "what val.bin is", one_of({"auto", "documents", "tail"})},
          {"val_fraction", &val_fraction, "share of the text for val.bin", between(0, 0.9)},
          {"seed", &seed, "of the documents for val.bin", at_least(0)},
          {"text_field", &text_field, "field of a JSON line that holds the text"},
          {"threads", &threads, "CPU threads; 0: one per core", between(0, 1 << 10)}};
}

std::vector<Option> TokenizerArguments::train_options() {
  return {{"out", &out, "folder for tokenizer.json"},
          {"vocab_size", &vocab_size, "tokens: 256 bytes, merges and <|endoftext|>",
           between(double(formats::BpeTrainer::kMinVocabSize), 1 << 24)},
          {"text_field", &text_field, "field of a JSON line that holds the text"}};
}

std::vector<Option> SampleArguments::options() {
  return {
      {"checkpoint_path", &checkpoint_path, "the same as PATH"},
      {"tokenizer", &tokenizer, "folder or file to take it from; null: the checkpoint"},
      {"prompt", &prompt, "text to continue; null: ask for prompts"},
      {"temperature", &temperature, "0: the most likely token; 1: as trained", at_least(0)},
      {"top_k", &top_k, "choose among so many most likely tokens; 0: all", at_least(0)},
      {"max_length", &max_length, "tokens of prompt and text together", at_least(1)},
      {"no_repeat_ngram_size", &no_repeat_ngram_size,
       "never write so many tokens twice; 0: allow; null: 3, for characters 0", at_least(0)},
      {"num_samples", &num_samples, "texts per prompt", at_least(1)},
      {"seed", &seed, "same seed, same text", at_least(0)},
      {"precision", &precision, "of matrix products", one_of({"auto", "bf16", "fp32"})},
      {"threads", &threads, "CPU threads; 0: one per core", at_least(0)},
      {"memory_gb", &memory_gb, "RAM to use, in 1e9 bytes; null: most of what is free", above(0)},
      {"logits", &logits, "file for each token with its logits, as lines of JSON"},
  };
}

std::vector<Option> LawArguments::choose_options() {
  return {{"hours", &hours, "time that the run may take, on this machine or on num_systems like it",
           above(0)},
          {"flops", &flops, "instead of hours: FLOPs by Cerebras-GPT's count", above(0)},
          {"out", &out, "file to write the config to; null: print it"}};
}
std::vector<Option> LawArguments::ratio_options() {
  return {{"picture", &picture, "FILE.svg or FILE.png"}};
}
std::vector<Option> LawArguments::fit_options() {
  return {{"out", &out, "file to write, for --law"}, {"picture", &picture, "FILE.svg or FILE.png"}};
}

std::vector<Option> PlotArguments::options() {
  return {
      {"out", &out, "FILE.svg or FILE.png"},
      {"x", &x, "the horizontal axis", one_of({"tokens", "flops", "steps", "hours"})},
      {"log", &log, "axes that are logarithmic", one_of({"xy", "x", "y", "none"})},
      {"smooth", &smooth, "share of a run that each point of its line is the mean of",
       between(0, 0.5)},
      {"law", &law, "to draw over FLOPs: cerebras-gpt, cerebras-gpt-mup, or a file of `law fit`"},
      {"title", &title, "above the picture"}};
}

std::vector<Option> CoordinatesArguments::options() {
  return {{"widths", &widths,
           "widths to compare; null: four, from the one near 128 on, twice as wide each"},
          {"seeds", &seeds, "of weights and tokens, of which the mean is shown", between(1, 1000)},
          {"steps", &steps, "of training", between(1, 10000)},
          {"without", &without, "a part of muP to leave out, to see what a mistake looks like",
           one_of(engine::parts_of_mup())},
          {"out", &out, "a picture, FILE.svg or FILE.png; needs gnuplot"}};
}

std::vector<Option> ExportArguments::options() {
  return {
      {"checkpoint_path", &checkpoint_path, "the same as PATH"},
      {"gguf", &gguf, "file to write, for llama.cpp"},
      {"hf", &hf, "folder to write, for transformers"},
      {"type", &type, "of the matrices; null: f16, in a folder f32 (which has no q8_0)",
       one_of({"f32", "f16", "bf16", "q8_0"})},
      {"tokenizer", &tokenizer, "folder to take it from, instead of the checkpoint; none: no text"},
  };
}

}  // namespace gigagpt::cli
