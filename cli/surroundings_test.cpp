// A run in surroundings that go wrong: full disks of logs, data that changes, checkpoints and
// stores that are damaged.
#include <gtest/gtest.h>

#include "base/error.h"
#include "cli/surroundings_testing.h"
#include "formats/tokenizer.h"

namespace gigagpt {
namespace {

TEST_F(Surroundings, ALogThatNobodyTakesEndsNoRun) {
  for (const std::string stream : {"1", "2"}) {
    EXPECT_EQ(status_of(train("gone" + stream, 40) + " " + stream + "> >(head -n 2 >/dev/null)"),
              0);
    EXPECT_EQ(saved("gone" + stream), std::vector<int64_t>{40});
    EXPECT_EQ(status_of(train("full" + stream, 40) + " " + stream + ">/dev/full"), 0);
    EXPECT_EQ(saved("full" + stream), std::vector<int64_t>{40});
  }
  EXPECT_EQ(status_of(train("closed", 40) + " <&- >&- 2>&-"), 0);
  EXPECT_EQ(saved("closed"), std::vector<int64_t>{40});
  for (const auto& entry : fs::directory_iterator(path("closed"))) {
    if (!entry.is_regular_file() || entry.path().filename() == "metrics.jsonl") continue;
    EXPECT_EQ(read_text(entry.path()).find("step "), std::string::npos) << entry.path();
  }
}

TEST_F(Surroundings, DataThatBecomesShorterIsAnErrorAndTheRunIsSaved) {
  write_data("shrinking", 20000);
  Background run({"/bin/bash", "-c", "exec " + train("shrunk", 1'000'000, "shrinking")},
                 path("log"));
  run.wait_for_lines(path("shrunk") + "/metrics.jsonl", 3);
  fs::resize_file(path("shrinking/train.bin"), 2000);
  const int status = run.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  EXPECT_NE(read_text(path("log")).find("shrinking/train.bin ends at byte"), std::string::npos)
      << read_text(path("log"));
  expect_saved("shrunk");
}

TEST_F(Surroundings, ABadTokenizerIsAnErrorBeforeTheFirstStep) {
  write_data("spoiled", 20000);
  folder_->write("spoiled/tokenizer.json", "{\"model\": 7}");
  const Outcome outcome = shell(train("unstarted", 5, "spoiled"));
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.text.find("spoiled/tokenizer.json"), std::string::npos) << outcome.text;
  EXPECT_EQ(steps_in("unstarted"), 0U);
}

TEST_F(Surroundings, BadDataInTheFirstStepLeavesNothingInTheWay) {
  folder_->write("foreign/train.bin", std::string(40000, '\x7f'));  // tokens 32639
  folder_->write("foreign/val.bin", std::string(40000, '\x7f'));
  const Outcome bad = shell(train("corrected", 3, "foreign"));
  EXPECT_EQ(bad.status, 1);
  EXPECT_NE(bad.text.find("token 32639 at position "), std::string::npos) << bad.text;
  const Outcome good = shell(train("corrected", 3));
  EXPECT_EQ(good.status, 0) << good.text;
}

TEST_F(Surroundings, AFinishedRunIsTheBeginningOfOneOnOtherData) {
  ASSERT_EQ(shell(train("pretrained", 4)).status, 0);
  write_data("other", 20000);
  const std::string from = " --checkpoint_path " + path("pretrained");
  const Outcome tuned = shell(train("tuned", 3, "other") + from);
  ASSERT_EQ(tuned.status, 0) << tuned.text;
  EXPECT_NE(tuned.text.find("a new run from the weights of " + path("pretrained")),
            std::string::npos)
      << tuned.text;
  EXPECT_EQ(steps_in("tuned"), 3U);
  const Outcome later = shell(train("tuned", 5, "other") + " --checkpoint_path latest");
  ASSERT_EQ(later.status, 0) << later.text;
  EXPECT_EQ(steps_in("tuned"), 5U);
  // On the same data it goes on, wherever that is.
  const Outcome longer = shell(train("longer", 6) + from);
  ASSERT_EQ(longer.status, 0) << longer.text;
  EXPECT_NE(longer.text.find("at step 4"), std::string::npos) << longer.text;
  EXPECT_EQ(steps_in("longer"), 2U);
}

TEST_F(Surroundings, ResultsThatCannotBeWrittenAreErrors) {
  ASSERT_EQ(shell(train("results", 2)).status, 0);
  const std::string checkpoint = " --checkpoint_path " + path("results");
  for (const std::string& command :
       {kProgram + " inspect " + path("results"), train("results", 2) + " --dry_run",
        kProgram + " plan " + kSource + "/configs/quickstart.yaml",
        kProgram + " eval" + checkpoint}) {
    EXPECT_EQ(status_of(command + " 2>/dev/null >/dev/full"), 1) << command;
    EXPECT_EQ(status_of(command + " 2>/dev/null >/dev/null"), 0) << command;
  }
}

// The disk of the checkpoints is full from the first steps on, until the run waits at its end.
TEST_F(Surroundings, AFullDiskOfCheckpointsIsWaitedFor) {
  fs::create_directories(path("disk"));
  if (shell("unshare -m mount -t tmpfs none " + path("disk")).status != 0)
    GTEST_SKIP() << "no disk can be mounted here";
  const std::string script = fmt::format(
      "mount -t tmpfs -o size=20m none {0}; {1} --checkpoint_steps 100 & run=$!; "
      "until [[ -s {0}/run/metrics.jsonl ]]; do sleep 0.01; done; "
      "dd if=/dev/zero of={0}/fill bs=1M; until grep -q 'it is waited for' {2}; do sleep 0.1; "
      "done; "
      "rm {0}/fill; wait $run; status=$?; ls {0}/run; exit $status",
      path("disk"), train("disk/run", 600), path("full.log"));
  Background run({"/usr/bin/unshare", "-m", "bash", "-c", script}, path("full.log"));
  const int status = run.wait();
  const std::string log = read_text(path("full.log"));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << log;
  EXPECT_NE(log.find("disk/run has no room for a checkpoint of "), std::string::npos) << log;
  EXPECT_NE(log.find("the run goes on without"), std::string::npos) << log;
  EXPECT_NE(log.find("\ncheckpoint_600\n"), std::string::npos) << log;
}

void flip_byte(const Path& file, uint64_t place) {
  std::string bytes = read_text(file);
  bytes[place] ^= 1;
  File::create(file).write(bytes);
}

TEST_F(Surroundings, DamageIsNoticedByAllAndTheRunGoesOnFromTheCheckpointBefore) {
  const std::string every = " --checkpoint_steps 2";
  ASSERT_EQ(shell(train("undamaged", 6) + every).status, 0);
  ASSERT_EQ(shell(train("damaged", 4) + every).status, 0);
  const std::string file = path("damaged") + "/checkpoint_4/model.safetensors";
  flip_byte(file, fs::file_size(file) - 9);
  for (const std::string& command :
       {kProgram + " inspect " + path("damaged"),
        kProgram + " eval --checkpoint_path " + path("damaged"),
        kProgram + " sample --prompt a --checkpoint_path " + path("damaged") + "/checkpoint_4",
        kProgram + " export --checkpoint_path " + path("damaged") + " --gguf " + path("x.gguf"),
        train("elsewhere", 4) + " --checkpoint_path " + path("damaged")}) {
    const Outcome outcome = shell(command);
    EXPECT_EQ(outcome.status, 1) << command << outcome.text;
    EXPECT_NE(outcome.text.find(file + ": its "), std::string::npos) << command << outcome.text;
  }
  const Outcome resumed = shell(train("damaged", 6) + every + " --checkpoint_path latest");
  EXPECT_EQ(resumed.status, 0) << resumed.text;
  EXPECT_NE(resumed.text.find("it was set aside as " + path("damaged") + "/checkpoint_4.damaged"),
            std::string::npos)
      << resumed.text;
  EXPECT_NE(resumed.text.find("checkpoint_2 at step 2"), std::string::npos) << resumed.text;
  EXPECT_TRUE(fs::exists(path("damaged") + "/checkpoint_4.damaged"));
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(read_text(path("damaged") + "/checkpoint_6/" + name) ==
                read_text(path("undamaged") + "/checkpoint_6/" + name))
        << name;
  }
}

// Bits that turn one valid text into another: another step, another model, another token.
TEST_F(Surroundings, DamageOfSmallFilesIsNoticed) {
  ASSERT_EQ(shell(train("small", 4)).status, 0);
  const Path checkpoint = path("small") + "/checkpoint_4";
  struct Damage {
    const char *file, *before, *after;
  };
  for (const auto& [name, before, after] :
       {Damage{"trainer_state.json", "\"global_step\": 4", "\"global_step\": 5"},
        Damage{"config.json", "\"n_head\": 2", "\"n_head\": 1"},
        Damage{"tokenizer.json", "\"a\"", "\"`\""}}) {
    const std::string whole = read_text(checkpoint / name);
    std::string damaged = whole;
    ASSERT_NE(whole.find(before), std::string::npos) << name << whole;
    File::create(checkpoint / name)
        .write(damaged.replace(whole.find(before), std::string(before).size(), after));
    for (const char* command : {"eval", "inspect"}) {
      const Outcome outcome =
          shell(fmt::format("{} {} {}", kProgram, command, checkpoint.string()));
      EXPECT_EQ(outcome.status, 1) << command << outcome.text;
      EXPECT_NE(outcome.text.find(std::string("checkpoint_4/") + name + ": it"), std::string::npos)
          << command << outcome.text;
    }
    File::create(checkpoint / name).write(whole);
  }
  EXPECT_EQ(shell(kProgram + " eval " + checkpoint.string()).status, 0);
}

TEST_F(Surroundings, LatestDoesNotBeginAnewWhereARunWas) {
  const std::string latest = " --checkpoint_steps 2 --checkpoint_path latest";
  ASSERT_EQ(shell(train("gone_all", 4) + latest).status, 0) << "a new run";
  for (const int64_t step : saved("gone_all")) {
    fs::remove_all(engine::checkpoint_directory(path("gone_all"), step));
  }
  const Outcome without = shell(train("gone_all", 6) + latest);
  EXPECT_EQ(without.status, 1);
  EXPECT_NE(without.text.find("came to step 4, as metrics.jsonl says"), std::string::npos)
      << without.text;
  EXPECT_EQ(steps_in("gone_all"), 4U) << "nothing is written over";

  const std::string streamed = latest + " --store " + path("streamed.store");
  ASSERT_EQ(shell(train("streamed", 4) + streamed).status, 0);
  fs::remove_all(path("streamed"));
  std::string bytes = read_text(path("streamed.store"));
  const std::string zeros(8192, '\0');
  File::create(path("streamed.store")).write(bytes.replace(0, zeros.size(), zeros));
  const Outcome damaged = shell(train("streamed", 6) + streamed);
  EXPECT_EQ(damaged.status, 1);
  EXPECT_NE(damaged.text.find("streamed.store is damaged at its beginning"), std::string::npos)
      << damaged.text;
  EXPECT_TRUE(read_text(path("streamed.store")) == bytes);
}

TEST_F(Surroundings, WeightsThatAreNotNumbersAreErrors) {
  ASSERT_EQ(shell(train("nan", 2)).status, 0);
  const Path folder = path("nan") + "/checkpoint_2";
  std::string bytes = read_text(folder / "model.safetensors");
  for (size_t i = bytes.size() / 2 / 4 * 4; i + 3 < bytes.size(); i += 4) {
    bytes.replace(bytes.size() % 4 + i, 4, std::string("\xff\xff\xff\x7f", 4).substr(0, 4));
  }
  File::create(folder / "model.safetensors").write(bytes);
  fs::remove(folder / "trainer_state.json");  // whose checksums would tell
  for (const char* command : {" eval --dataset ", " sample --prompt a"}) {
    const std::string data = std::string(command).ends_with("dataset ") ? path("data") : "";
    const Outcome outcome =
        shell(kProgram + command + data + " --checkpoint_path " + folder.string());
    EXPECT_EQ(outcome.status, 1) << outcome.text;
    EXPECT_EQ(outcome.text.find("perplexity"), std::string::npos) << outcome.text;
  }
}

TEST_F(Surroundings, AResumedRunSaysWhatIsNotAsBefore) {
  ASSERT_EQ(shell(train("changed", 4)).status, 0);
  const std::string latest = " --checkpoint_path latest --precision auto ";
  const Outcome same = shell(train("changed", 4) + latest);
  EXPECT_EQ(same.text.find("not as before"), std::string::npos) << same.text;
  const Outcome other = shell(train("changed", 6) + latest + "--learning_rate 0.5");
  EXPECT_EQ(other.status, 0) << other.text;
  EXPECT_NE(other.text.find("not as before: num_steps 6 (was 4), learning_rate 0.5 (was "),
            std::string::npos)
      << other.text;
  const Outcome optimizer = shell(train("changed", 8) + latest + "--optimizer sgd");
  EXPECT_EQ(optimizer.status, 1);
  EXPECT_NE(optimizer.text.find("whose moments mean nothing to sgd"), std::string::npos)
      << optimizer.text;
  const Outcome anew = shell(train("anew", 2) + " --optimizer sgd --load_weights_only true" +
                             " --checkpoint_path " + path("changed"));
  EXPECT_EQ(anew.status, 0) << anew.text;
  EXPECT_NE(anew.text.find("a new run from the weights of "), std::string::npos) << anew.text;
  EXPECT_EQ(steps_in("anew"), 2U);
}

TEST_F(Surroundings, DataThatWasRewrittenIsNoticedAndOtherTokensAreRefused) {
  fs::copy(path("data"), path("own"), fs::copy_options::recursive);
  ASSERT_EQ(shell(train("owner", 4, "own")).status, 0);
  const std::string latest = " --checkpoint_path latest";
  std::string bytes = read_text(path("own") + "/train.bin");
  std::swap(bytes[0], bytes[10]);
  File::create(path("own") + "/train.bin").write(bytes);
  const Outcome rewritten = shell(train("owner", 6, "own") + latest);
  EXPECT_EQ(rewritten.status, 0) << rewritten.text;
  EXPECT_NE(rewritten.text.find("train.bin " + std::to_string(bytes.size()) + " bytes, checksum"),
            std::string::npos)
      << rewritten.text;
  // The same tokens in another order.
  formats::Tokenizer({'z', 'y', 'x'}).save(path("own"));
  for (const std::string& command :
       {train("owner", 8, "own") + latest,
        train("fine", 8, "own") + " --checkpoint_path " + path("owner"),
        kProgram + " eval " + path("owner")}) {
    const Outcome outcome = shell(command);
    EXPECT_EQ(outcome.status, 1) << command << outcome.text;
    EXPECT_NE(outcome.text.find("was made with another tokenizer than the model in"),
              std::string::npos)
        << outcome.text;
  }
}

TEST_F(Surroundings, AModelWithoutATokenizerIsSampledWithOne) {
  write_data("bare", 20000);
  const Outcome trained = shell(train("untold", 2, "bare"));
  EXPECT_NE(trained.text.find("bare has no tokenizer.json"), std::string::npos) << trained.text;
  const std::string sample = kProgram + " sample " + path("untold") + " --prompt a --max_length 4";
  const Outcome without = shell(sample);
  EXPECT_EQ(without.status, 1);
  EXPECT_NE(without.text.find("has no tokenizer"), std::string::npos) << without.text;
  EXPECT_EQ(shell(sample + " --tokenizer " + path("data")).status, 0);
  const Outcome latest = shell("cd " + path("") + " && mkdir -p out && cp -r untold out/a && " +
                               kProgram + " eval latest");
  EXPECT_EQ(latest.status, 0) << latest.text;
  EXPECT_NE(latest.text.find("out/a/checkpoint_2: loss"), std::string::npos) << latest.text;
}

TEST_F(Surroundings, AHomeThatCannotBeWrittenIsNoError) {
  const std::string nowhere = "env -u XDG_CACHE_HOME HOME=/proc ";
  const Outcome plan = shell(nowhere + "TMPDIR=" + path("") + " " + kProgram + " plan " + kSource +
                             "/configs/quickstart.yaml");
  EXPECT_EQ(plan.status, 0) << plan.text;
  EXPECT_EQ(shell(nowhere + train("homeless", 2)).status, 0);
}

TEST_F(Surroundings, TooManyThreadsAreAnErrorThatNamesTheLimit) {
  const Outcome many = shell(train("many", 2) + " --threads 10000");
  EXPECT_EQ(many.status, 1);
  EXPECT_NE(many.text.find("threads: 10000 are too many"), std::string::npos) << many.text;
  if (::geteuid() != 0) GTEST_SKIP() << "another user is needed, whom a limit holds";
  fs::permissions(folder_->path(), fs::perms::all);
  const Outcome refused =
      shell("setpriv --reuid=65533 --clear-groups prlimit --nproc=4 " + train("refused", 2));
  EXPECT_EQ(refused.status, 1) << refused.text;
  EXPECT_NE(refused.text.find("ulimit -u is 4"), std::string::npos) << refused.text;
}

TEST_F(Surroundings, TheLogIsOnStandardOutput) {
  ASSERT_EQ(status_of(train("logged", 3) + " >" + path("log.txt") + " 2>/dev/null"), 0);
  const std::string log = read_text(path("log.txt"));
  EXPECT_NE(log.find("  step 3/3  loss "), std::string::npos) << log;
  EXPECT_NE(log.find("\nprecision    "), std::string::npos) << log;
  EXPECT_EQ(log.find('\r'), std::string::npos) << "no line that is rewritten";
  EXPECT_EQ(status_of(train("unlogged", 3) + " >/dev/full"), 0) << "a log is no result";
}

}  // namespace
}  // namespace gigagpt
