// Where a run goes on from: a checkpoint, or the files that its state is in, of as many systems as
// now or of another number. No weights are read here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/plan/plan.h"
#include "engine/state/state_file.h"
#include "engine/systems/cluster.h"
#include "formats/run_files.h"

namespace gigagpt::engine {

struct ResumePoint {
  Path checkpoint;
  int64_t step = 0;  // steps completed
  bool in_out_dir = false;
  bool in_store = false;       // `checkpoint` is the file that the state lives in
  bool moments_lost = false;   // they were in a file that is gone, or at another step by now
  bool weights_alone = false;  // a run of its own begins, at step 0
  // Of a run on another number of systems, or by an older version of this program: the files that
  // its state is in, in the order of those.
  std::vector<Path> other_files = {};
  GradientForm other_gradient = GradientForm::kFp32;  // in those
  int64_t other_step = 0;        // which all of them have reached; some may be one ahead
  bool keeps_files = false;      // they belong to another run and must not be removed
  uint64_t run_id = 0;           // of the files
  std::string note = {};         // for the user: what was found damaged on the way
  std::string differences = {};  // for the user: what the run is asked to do otherwise from here on
  std::string precision = {};    // that it was computed in so far; "" if that is not known
};

// What a config says of where a run starts and what it saves.
struct CheckpointRules {
  Path out_dir;
  std::string store;                // as in StoreRules
  std::optional<std::string> from;  // nothing, "latest", or a path
  RunSize size;                     // how often to save, and how many are kept
  formats::TextPairs config = {};   // all keys, as checkpoints keep them
  Path dataset = {};                // its folder; empty: none
  std::string data = {};            // what its train.bin is known by, where the leader finds one
};

// `from` as a path (or a run's out_dir: its newest), or for "latest" the newest in out_dir;
// nothing if there is none, or nothing is wanted. Steps are counted by tokens, so a run may go on
// elsewhere with another batch size, as long as the tokens seen are whole steps; a checkpoint with
// weights only is at step 0. In another out_dir the key load_weights_only decides whether the run
// goes on, or a new one begins with the weights at step 0: auto begins one where the data set is
// another. If files hold the state of a run, "latest" is that, unless the newest checkpoint belongs
// to others. Sizes of files are compared here, checksums where they are loaded.
// Throws AgreedError if out_dir already holds a run that would be overwritten or branched off, or
// files of some systems are missing, or "latest" finds only what is left of a run, or what is asked
// for cannot be meant: another optimizer for the same moments, or data that was made with another
// tokenizer. All systems ask at once; what the one that leads sees in out_dir counts for all.
std::optional<ResumePoint> find_resume_point(const CheckpointRules& rules, Cluster& cluster);

// "continuing from ... at step N", with what is done otherwise from here on, in a line each.
// `precision` is what it computes in now.
std::string origin_text(const ResumePoint& from, Precision precision);

// The files of a run's state that are there, of one system or of any number.
std::vector<Path> find_store_files(const std::string& store, const Path& out_dir);

// Renames checkpoints in out_dir that are not whole to checkpoint_N.damaged, down to the newest
// that is, and says so; "" if that is the newest of all. Looks at the sizes of files, or with
// `sums` at their checksums. Throws Error if none is whole.
std::string set_damaged_aside(const Path& out_dir, bool sums);

// The checkpoint that a path given by a user means: itself, or the newest in a run's out_dir. With
// `out_dir`, "latest" is the newest there, or if there is none in the run below it that was at work
// last. Throws Error if there is none, or its files have other sizes than they should.
Path find_checkpoint(const Path& given, const Path& out_dir = {});

// The file that a run's state was in when the checkpoint was made, as its id; "" if it was in RAM.
std::string store_of(const Path& checkpoint);
// Whether the moments are beside the weights.
bool has_moments(const Path& checkpoint);

}  // namespace gigagpt::engine
