// What `gigagpt COMMAND --help` says below the flags.
#pragma once

namespace gigagpt::cli {

inline constexpr const char* kTrainHelp =
    R"(CONFIG is a YAML file of the config keys above; --key value overrides one. Progress is a line every
--log_steps steps; metrics.jsonl in out_dir has them all. Ctrl-C finishes the step (or drops one
that would take over a minute), saves and exits; --checkpoint_path latest continues as if nothing
had happened. So do SIGTERM, SIGHUP (a closed terminal, unless started with nohup) and what batch
systems send (SIGUSR1, SIGUSR2, SIGXCPU). A second Ctrl-C or SIGTERM ends at once. Exit code 0: all
steps are done; 128 + the signal's number: stopped and saved; 1: an error, which is printed.

Is it fast, and what takes the time? --profile says so when the run ends: what each op takes of a
step by itself, how fast it computes, and how near that is to the fastest matrix product of this
machine. A slow op with a large share is where to look. --trace FILE has every op as a time line, to
open in https://ui.perfetto.dev. Ten steps are enough for either.

Examples:
  gigagpt train configs/quickstart.yaml
  gigagpt train configs/111m.yaml --dataset data/openwebtext --dry_run
  gigagpt train configs/111m.yaml --dataset data/openwebtext --checkpoint_path latest
  gigagpt train configs/111m.yaml --dataset data/openwebtext --num_steps 10 --out_dir out/profile \
      --profile --trace trace.json
)";

inline constexpr const char* kPlanHelp =
    R"(Says what training with CONFIG takes of this machine before anything is written: RAM, disk with
checkpoints, bytes that go through the disk, time. `train` shows the same as it starts, refuses what
does not fit, and shows what was measured beside it when it ends. The rates of this machine are
measured the first time (about five seconds) and kept in ~/.cache/gigagpt/machine.json. Exit code 1:
it does not fit.

Examples:
  gigagpt plan configs/13b.yaml
  gigagpt plan configs/13b.yaml --state compact --memory_gb 16
  gigagpt plan configs/111m.yaml --measure
)";

inline constexpr const char* kCheckHelp =
    R"(For whoever changes a model, or writes one: takes the model of CONFIG in a small size, with weights
and tokens at random, and holds it to what training counts on. Its layers depend on their arguments
alone; every way of running them gives the gradients of plain autograd, to the bit; these are the
slopes of the loss; no token sees a later one; text is continued as it was learned; the plan counts
the FLOPs that are computed; runs in RAM and in a file, stopped and gone on with, and on two systems
learn the same. Takes seconds. Sizes that are given as flags are taken as they are. Exit code 1: a
claim does not hold, and why is printed.

Examples:
  gigagpt check configs/111m.yaml
  gigagpt check configs/111m.yaml --width 64 --depth 3 --sequence_length 40
)";

inline constexpr const char* kCoordinatesHelp =
    R"(The coordinate check of Yang et al. (2022): trains the model of CONFIG, at most two blocks deep, for a
few steps at several widths, and shows the mean magnitude of what embeddings, attention, feed-forward
layers and logits make. In the maximal update parametrisation (mup_base_width) it is the same at every
width, and a learning rate found at one serves for all; in the standard one, or with a mistake in the
model, it grows or shrinks. Needs no data; takes seconds to a minute. Exit code 1: something is not flat
(a slope of log magnitude over log width beyond 0.05).

Examples:
  gigagpt coordinates configs/cerebras-gpt-mup/111m.yaml --out coordinates.svg
  gigagpt coordinates configs/cerebras-gpt-mup/111m.yaml --without rates
  gigagpt coordinates configs/111m.yaml --widths 64,256,1024
)";

inline constexpr const char* kEvalHelp =
    R"(Reports the mean loss and perplexity over all of val.bin. The configuration is the one kept in the checkpoint; CONFIG and --key value override it.

Examples:
  gigagpt eval out/quickstart
  gigagpt eval out/quickstart/checkpoint_1000 --dataset data/other
)";

inline constexpr const char* kSampleHelp =
    R"(Without --prompt it asks for prompts until an empty line. A checkpoint directory is all it needs;
given a run's out_dir it takes the newest checkpoint there.

Examples:
  gigagpt sample out/quickstart
  gigagpt sample out/quickstart --prompt "In the beginning" --num_samples 3
)";

inline constexpr const char* kPrepareHelp =
    R"(Writes train.bin, val.bin, meta.json and tokenizer.json to --out.

--input is a file of text (one document), of JSON lines (.jsonl or .ndjson: a document a line, in the
field --text_field), either compressed (gzip, bzip2, xz, zstd), an archive of such files (tar, also
compressed, or zip; archives within archives too), or a folder of all that, read in order of names. In
folders and archives only files named .txt, .jsonl or .ndjson are read. Input is streamed.

--tokenizer char makes a token of each character. Else it is a folder or file with a tokenizer:
tokenizer.json, or GPT-2's vocab.json and merges.txt.

--split documents puts <|endoftext|> behind each document, and each with a chance of --val_fraction into
val.bin; the same --seed chooses the same ones. --split tail takes all input as one text, without
<|endoftext|>, and its last part for val.bin. auto is tail for characters and for a single document.

--stats prints documents, bytes, tokens, bytes per token, exact duplicates (it keeps 16 bytes a document
to find them), the entropy of single tokens and the longest document.

Examples:
  gigagpt prepare --input book1.txt --input book2.txt --out data/books
  gigagpt prepare --input openwebtext.tar.xz --tokenizer gpt2 --val_fraction 0.0005 --out data/owt
  gigagpt prepare --input posts.jsonl.zst --text_field body --tokenizer gpt2 --stats
)";

inline constexpr const char* kInspectHelp =
    R"(PATH is a run's out_dir, a checkpoint, a store file, a safetensors or a GGUF file. Says what it is
and how far the run is, with the size and the L2 norms of each layer, and reads all of it to compare
every checksum there is; of a GGUF file it reads what is said of the tensors. Whatever is wrong is listed; the exit status is then 1. Nothing is changed. A
store that a run is using cannot be looked at.

Examples:
  gigagpt inspect out/quickstart
  gigagpt inspect out/quickstart/checkpoint_1000
  gigagpt inspect out/111m/model.store
)";

inline constexpr const char* kExportHelp =
    R"(Writes the weights, the tokenizer and what the model is for other programs: --gguf to one GGUF file,
which llama.cpp and programs built on it run, or --hf to a folder for Hugging Face's transformers (as
checkpoints are already, but for models with muP's multipliers, which are folded into the weights).

In a GGUF file matrices are stored as --type says: f32 is exact, f16 and bf16 take half of
that, q8_0 (8 bits, with a scale for each 32 values) a quarter; vectors and positions stay f32. The
file appears when it is complete, and replaces an older GGUF file of its name. Takes some 0.3 GB of
RAM, whatever the model.

llama.cpp computes GELU by its tanh approximation. The logits of a model that was trained with the
exact formula differ there by some 0.001 more than rounding explains.

Examples:
  gigagpt export out/quickstart --gguf quickstart.gguf
  gigagpt export out/111m --gguf 111m-q8_0.gguf --type q8_0
  gigagpt export out/cerebras-gpt-mup-111m --hf 111m-mup
)";

inline constexpr const char* kPlotHelp =
    R"(Draws the training loss of each run as a line, and what validation there was as points, over tokens,
FLOPs, steps or hours. Runs may be under way. gnuplot does the drawing (apt-get install gnuplot-nox).

Examples:
  gigagpt plot out/quickstart --out loss.svg
  gigagpt plot out/small out/large --x flops --law cerebras-gpt --out family.png
)";

inline constexpr const char* kLawHelp =
    R"(gigagpt law predict CONFIG says what loss the run would end with by the law that Cerebras-GPT found for
compute-optimal models, before it begins: parameters, tokens and FLOPs are counted as the paper counts
them. With mup_base_width it is the law of the paper's muP models, and with --law FILE one of yours.

gigagpt law fit RUN... fits L = (FLOPs / scale)^-exponent + floor to the validation losses that your
runs of one text ended with, and says how sure its numbers are. A run that is not finished, or is of
another text, is named and refused. The file that --out writes also has the curve that the runs'
losses share over the share of their tokens: train with --law FILE shows what it expects of each
step, and says once when a run leaves the band of normal ones.

gigagpt law ratio RUN... fits L = floor + a N^-alpha + b D^-beta to runs of N parameters and D tokens,
and says how many tokens a parameter are best.

gigagpt law choose CONFIG turns --hours or --flops into a config: of the family that CONFIG is one of,
the largest model that sees 20 tokens a parameter in that time on this machine, or on num_systems like
it. Its width, depth, heads, batch, steps and warm-up are chosen; all else stays.

Examples:
  gigagpt law predict configs/cerebras-gpt/111m.yaml
  gigagpt law fit out/scaling_law/*-seed? --out law.json --picture law.svg
  gigagpt law predict configs/scaling_law.yaml --width 128 --law law.json
  gigagpt law choose configs/scaling_law.yaml --hours 8 --law law.json --out mine.yaml
  gigagpt train mine.yaml
)";

inline constexpr const char* kTokenizerHelp =
    R"(gigagpt tokenizer train --help tells how to make one. A tokenizer that is there already, GPT-2's
say, need not be trained: encode and decode show what it does, and prepare uses it.

Examples:
  gigagpt tokenizer train --input book.txt --vocab_size 8192 --out data/tokenizer
  echo "In the beginning" | gigagpt tokenizer encode --tokenizer data/tokenizer
  echo "818 262 3726" | gigagpt tokenizer decode --tokenizer data/gpt2
)";

inline constexpr const char* kTokenizerTrainHelp =
    R"(Learns byte-level byte pairs as GPT-2 has them and writes DIR/tokenizer.json, which Hugging Face's
tokenizers open. Ids: 256 bytes, merges in the order they were found, <|endoftext|> last. The most
frequent pair is merged first, of equals that of lower ids, so that the same text gives the same file.
Takes at most about 1 GB of RAM: pre-tokens (words) that are rare are forgotten before that. --input
is all that gigagpt prepare reads.

Example:
  gigagpt tokenizer train --input a.txt --input b.txt --vocab_size 50257 --out data/tokenizer
)";

}  // namespace gigagpt::cli
