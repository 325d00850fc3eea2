// For tests only: systems as processes of this machine that talk through sockets. Whoever starts
// them must not have computed anything with several threads, as a process is forked for each.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/error.h"
#include "engine/systems/cluster.h"

namespace gigagpt::engine {

// A Wire over one socket to each other system. What comes before it is asked for waits here.
class SocketWire : public Wire {
 public:
  // Takes the sockets; the one at its own rank is -1.
  SocketWire(int rank, std::vector<int> sockets) : rank_(rank), peers_(sockets.size()) {
    for (size_t i = 0; i < sockets.size(); ++i) {
      peers_[i].socket = sockets[i];
      if (sockets[i] >= 0) ::fcntl(sockets[i], F_SETFL, O_NONBLOCK);
    }
  }
  ~SocketWire() override {
    for (const Peer& peer : peers_) {
      if (peer.socket >= 0) ::close(peer.socket);
    }
  }
  int rank() const override { return rank_; }
  int systems() const override { return int(peers_.size()); }

  void send(uint64_t id, int to, int tag, std::span<const std::byte> bytes) override {
    Out out{id, {}};
    const Head head{tag, bytes.size()};
    out.bytes.resize(sizeof head + bytes.size());
    std::memcpy(out.bytes.data(), &head, sizeof head);
    std::copy(bytes.begin(), bytes.end(), out.bytes.begin() + sizeof head);
    peers_[size_t(to)].out.push_back(std::move(out));
  }
  void receive(uint64_t id, int from, int tag, std::span<std::byte> bytes) override {
    peers_[size_t(from)].wanted[tag].push_back({id, bytes});
  }
  void poll(std::vector<uint64_t>& complete) override {
    for (Peer& peer : peers_) {
      if (peer.socket < 0) continue;
      flush(peer, complete);
      fill(peer);
      for (auto& [tag, wanted] : peer.wanted) {
        auto& there = peer.arrived[tag];
        while (!wanted.empty() && !there.empty()) {
          GIGAGPT_ASSERT(wanted.front().bytes.size() == there.front().size());
          std::copy(there.front().begin(), there.front().end(), wanted.front().bytes.begin());
          complete.push_back(wanted.front().id);
          there.pop_front();
          wanted.pop_front();
        }
      }
    }
  }

 private:
  struct Head {
    int64_t tag;
    uint64_t size;
  };
  struct Out {
    uint64_t id;
    std::vector<std::byte> bytes;
    size_t sent = 0;
  };
  struct Wanted {
    uint64_t id;
    std::span<std::byte> bytes;
  };
  struct Peer {
    int socket = -1;
    std::deque<Out> out;
    std::vector<std::byte> in;  // of a message that is not whole yet
    std::map<int64_t, std::deque<std::vector<std::byte>>> arrived;
    std::map<int64_t, std::deque<Wanted>> wanted;
  };

  static void flush(Peer& peer, std::vector<uint64_t>& complete) {
    while (!peer.out.empty()) {
      Out& out = peer.out.front();
      const ssize_t n = ::send(peer.socket, out.bytes.data() + out.sent,
                               out.bytes.size() - out.sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      out.sent += size_t(n);
      if (out.sent < out.bytes.size()) continue;
      complete.push_back(out.id);
      peer.out.pop_front();
    }
  }
  static void fill(Peer& peer) {
    std::array<std::byte, 65536> piece;
    for (ssize_t n = 0; (n = ::recv(peer.socket, piece.data(), piece.size(), 0)) > 0;) {
      peer.in.insert(peer.in.end(), piece.begin(), piece.begin() + n);
    }
    size_t used = 0;
    for (Head head{}; peer.in.size() - used >= sizeof head; used += sizeof head + head.size) {
      std::memcpy(&head, &peer.in[used], sizeof head);
      if (peer.in.size() - used - sizeof head < head.size) break;
      const auto begin = peer.in.begin() + int64_t(used + sizeof head);
      peer.arrived[head.tag].emplace_back(begin, begin + int64_t(head.size));
    }
    peer.in.erase(peer.in.begin(), peer.in.begin() + int64_t(used));
  }

  int rank_;
  std::vector<Peer> peers_;
};

// The wires of some systems, not used yet.
class Wires {
 public:
  explicit Wires(int systems) : sockets_(size_t(systems), std::vector<int>(size_t(systems), -1)) {
    for (size_t a = 0; a < sockets_.size(); ++a) {
      for (size_t b = 0; b < a; ++b) {
        int pair[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
          fail_errno("socketpair");
        sockets_[a][b] = pair[0];
        sockets_[b][a] = pair[1];
      }
    }
  }
  // Leaves open what is that system's.
  void keep_only(int rank) {
    for (size_t i = 0; i < sockets_.size(); ++i) {
      for (int& socket : sockets_[i]) {
        if (int(i) != rank && socket >= 0) ::close(std::exchange(socket, -1));
      }
    }
  }
  WireMaker maker(int rank) const {
    return [rank, sockets = sockets_[size_t(rank)]] {
      return std::make_unique<SocketWire>(rank, sockets);
    };
  }

 private:
  std::vector<std::vector<int>> sockets_;  // by system and peer
};

// Processes that do some work together. One system does it as one that knows of no others.
class Systems {
 public:
  Systems(int systems, const std::function<void(Cluster&)>& work, double timeout_s = 100) {
    Wires wires(systems);
    for (int rank = 0; rank < systems; ++rank) {
      const pid_t parent = ::getpid(), child = ::fork();
      if (child < 0) fail_errno("fork");
      if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(1);
        wires.keep_only(rank);
        run(wires.maker(rank), systems, work, timeout_s);
      }
      children_.push_back(child);
    }
    wires.keep_only(-1);
  }
  ~Systems() {
    for (size_t rank = 0; rank < children_.size(); ++rank) kill(int(rank));
    wait();
  }
  void kill(int rank, int signal = SIGKILL) const {
    if (children_[size_t(rank)] > 0) ::kill(children_[size_t(rank)], signal);
  }
  // Waits for all; when one fails the others are killed. True if all of them ended well.
  bool wait() {
    bool well = true;
    for (int status = 0; true;) {
      const pid_t ended = ::waitpid(-1, &status, 0);
      if (ended < 0) return well;
      std::replace(children_.begin(), children_.end(), ended, -1);
      well = well && status == 0;
      for (size_t rank = 0; status != 0 && rank < children_.size(); ++rank) kill(int(rank));
    }
  }

 private:
  [[noreturn]] static void run(const WireMaker& wire, int systems,
                               const std::function<void(Cluster&)>& work, double timeout_s) {
    const auto end = [](const std::string& message) {
      if (!message.empty()) std::fprintf(stderr, "%s\n", message.c_str());
      ::_exit(1);
    };
    try {
      if (systems == 1) {
        Cluster alone;
        work(alone);
      } else {
        Cluster cluster(wire, timeout_s, end);
        cluster.guard([&] { work(cluster); });
      }
    } catch (const std::exception& error) {
      end(error.what());
    }
    std::fflush(nullptr);
    ::_exit(0);
  }

  std::vector<pid_t> children_;  // -1: has ended
};

inline bool run_systems(int systems, const std::function<void(Cluster&)>& work) {
  return Systems(systems, work).wait();
}

}  // namespace gigagpt::engine
