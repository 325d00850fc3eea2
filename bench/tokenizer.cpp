// MB/s of encoding a text, with one thread and with two, each of which encodes all of it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/system.h"
#include "formats/tokenizer.h"

namespace gigagpt::bench {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int run(int argc, char** argv) {
  CLI::App app{"Times encoding of text"};
  std::string folder, file;
  int rounds = 9;
  app.add_option("--tokenizer", folder, "folder or tokenizer.json")->required();
  app.add_option("--text", file, "what to encode")->required();
  app.add_option("--rounds", rounds, "of which the medians are taken");
  CLI11_PARSE(app, argc, argv);
  const auto tokenizer = formats::Tokenizer::load(folder);
  const std::string text = read_text(file);
  const auto encode_s = [&](int num_threads) {
    const Stopwatch watch;
    std::vector<std::thread> threads;
    for (int i = 0; i < num_threads; ++i) threads.emplace_back([&] { tokenizer.encode(text); });
    for (std::thread& thread : threads) thread.join();
    return watch.seconds();
  };
  std::vector<double> one, two;
  for (int round = 0; round < rounds; ++round) {
    one.push_back(encode_s(1));
    two.push_back(encode_s(2));
  }
  const double mb = double(text.size()) / 1e6;
  fmt::print("{}: {:.1f} MB, {:.2f} bytes a token: {:.1f} MB/s, {:.1f} with two threads\n", file,
             mb, double(text.size()) / double(tokenizer.encode(text).size()), mb / median(one),
             2 * mb / median(two));
  return 0;
}

}  // namespace
}  // namespace gigagpt::bench

int main(int argc, char** argv) {
  return gigagpt::bench::run(argc, argv);
}
