// A run's out_dir: the names of what is in it, and what killed runs left there. No LibTorch.
#pragma once

#include <cstdint>
#include <vector>

#include "base/file.h"

namespace gigagpt::engine {

// The steps of the complete checkpoints in out_dir, ascending; empty if there is no out_dir.
std::vector<int64_t> checkpoint_steps(const Path& out_dir);
Path checkpoint_directory(const Path& out_dir, int64_t step);

// Removes what killed processes left: checkpoints half written or half removed, scratch files that
// nobody has open, the half-written copy of metrics.jsonl. Only for who has the DirectoryLock.
void remove_leftovers(const Path& out_dir);

// Makes out_dir/best a link to this checkpoint in it, in place of an older one at once.
void link_best(const Path& checkpoint);
// Removes all but the newest `keep` checkpoints (0: none), and the one that out_dir/best links to.
void remove_older_checkpoints(const Path& out_dir, size_t keep);

}  // namespace gigagpt::engine
