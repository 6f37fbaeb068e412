// Implements the clients of bench_throughput, and makes, reads and writes their requests.
#include "bench/throughput_client.hpp"

#include <cmath>
#include <fmt/format.h>
#include <fstream>
#include <random>
#include <thread>

namespace tropilla::bench {

namespace {

/// A fraction in [0, 1) of a generator's next number: the standard's distributions differ between libraries.
double fraction(std::mt19937_64& generator) {
  return static_cast<double>(generator() >> 11) * 0x1p-53;
}

std::size_t between(std::mt19937_64& generator, std::size_t least, std::size_t greatest) {
  return least + static_cast<std::size_t>(fraction(generator) * static_cast<double>(greatest - least + 1));
}

} // namespace

generation_options options_for(const request& r) {
  generation_options o;
  o.max_tokens = r.tokens;
  o.ignore_eos = true;
  o.sampling = r.sampling;
  return o;
}

std::shared_ptr<record> crowd::submit(const request& r, std::size_t leave_after, std::optional<reply_ticket>* ticket) {
  auto mine = std::make_shared<record>();
  mine->times.reserve(r.tokens);
  mine->ids.reserve(r.tokens);
  mine->leave_after = leave_after;
  {
    const std::lock_guard lock(mutex_);
    ++submitted_;
  }
  mine->submitted = now();
  reply_callbacks calls;
  calls.on_piece = [this, mine](const piece& p) {
    if (p.id >= 0) {
      mine->times.push_back(now());
      mine->ids.push_back(p.id);
    }
    mine->text += p.text;
    return mine->leave_after == 0 || mine->ids.size() < mine->leave_after;
  };
  calls.on_finished = [this, mine](const generation_statistics& cost) {
    mine->cost = cost;
    ended(*mine);
  };
  calls.on_failed = [this, mine](const error& e) {
    mine->failure = e;
    ended(*mine);
  };
  try {
    auto got = runtime_.submit(r.prompt, options_for(r), std::move(calls));
    if (ticket != nullptr)
      *ticket = std::move(got);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    --submitted_;
    throw;
  }
  return mine;
}

std::vector<std::shared_ptr<record>> crowd::submit_all(const std::vector<request>& requests) {
  std::vector<std::shared_ptr<record>> records;
  for (const auto& r : requests) {
    std::this_thread::sleep_until(at(r.at));
    records.push_back(submit(r));
  }
  return records;
}

void crowd::wait(std::size_t open) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return submitted_ <= endings_ + open; });
}

bool crowd::wait_until(double end, std::size_t open) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, at(end), [&] { return submitted_ <= endings_ + open; });
}

std::size_t crowd::endings() const {
  const std::lock_guard lock(mutex_);
  return endings_;
}

void crowd::ended(record& r) {
  const std::lock_guard lock(mutex_); // held while notifying, so that the crowd may go as soon as the last one ended
  r.ended = true;
  ++endings_;
  changed_.notify_all();
}

std::vector<token_id> random_ids(std::size_t count, std::uint64_t seed, std::size_t vocabulary) {
  std::mt19937_64 generator(seed);
  std::vector<token_id> ids(count);
  for (auto& id : ids)
    id = static_cast<token_id>(between(generator, 0, vocabulary - 1));
  return ids;
}

std::vector<request> make_requests(std::size_t count, double rate, std::uint64_t seed, std::size_t vocabulary) {
  std::mt19937_64 generator(seed);
  std::vector<request> requests(count);
  double at = 0;
  for (auto& r : requests) {
    const auto prompt = between(generator, 32, 512);
    r.tokens = between(generator, 16, 256);
    r.prompt = random_ids(prompt, generator(), vocabulary);
    const double gap = -std::log(1 - fraction(generator));
    r.at = at;
    at += rate > 0 ? gap / rate : 0;
  }
  return requests;
}

json to_json(const std::vector<request>& requests) {
  json out = json::array();
  for (const auto& r : requests)
    out.push_back({{"prompt", r.prompt}, {"tokens", r.tokens}, {"at", r.at}});
  return out;
}

std::vector<request> read_requests(const std::string& path) {
  std::ifstream in(path);
  std::vector<request> requests;
  try {
    for (const auto& r : json::parse(in))
      requests.push_back({r.at("prompt").get<std::vector<token_id>>(),
                          r.at("tokens").get<std::size_t>(),
                          r.at("at").get<double>(),
                          {}});
  } catch (const json::exception& e) {
    throw error(errc::invalid_argument, fmt::format("{} holds no requests: {}", path, e.what()));
  }
  return requests;
}

} // namespace tropilla::bench
