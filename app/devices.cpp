// `tropilla devices`: lists what this machine can compute on.
#include "app/command.hpp"

#include "app/figures.hpp"
#include "app/table.hpp"
#include "app/text.hpp"
#include "app/topology_report.hpp"
#include "kernels/cuda/gpus.hpp"
#include "kernels/device.hpp"
#include "kernels/host/cpu_features.hpp"
#include "kernels/host/read_bandwidth.hpp"
#include "memory/bytes.hpp"
#include "memory/memory_limit.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

struct devices_options {
  bool json = false;
  void bind(option_binder& b) { b.flag({"--json", "", "one object: devices, and why there is no GPU"}, json); }
};

struct listed {
  std::string name, what;
  std::size_t memory = 0, free = 0;
  memory_limit limit;   ///< of the host
  double bandwidth = 0; ///< bytes per second
  std::string problem;  ///< why tropilla can't use it
  std::vector<std::string> peers;
  json topology; ///< of the host
};

listed describe_host(const host::topology& cpus, std::size_t threads) {
  listed d;
  d.name = "host:0";
  d.what = fmt::format("{}, {} core{}, {}", cpus.processor.empty() ? "processor" : cpus.processor, cpus.cores,
                       cpus.cores == 1 ? "" : "s", host_isa());
  const auto now = memory_reader().read();
  for (const auto& bound : now.bounds)
    if (bound.what == memory_bound::counts::written) {
      d.memory = d.memory == 0 ? bound.all : std::min(d.memory, bound.all);
      d.free = d.free == 0 ? bound.left : std::min(d.free, bound.left);
    }
  d.limit = limit_of(now, needs_of_runtime(0, now.thread_stack));
  // A small machine is asked for an eighth of what it has left.
  const std::size_t left = std::min(d.free, d.limit.bytes);
  const std::size_t bytes = std::clamp<std::size_t>(left / 8, std::size_t{1} << 20, std::size_t{256} << 20);
  d.bandwidth = host::read_bandwidth(threads, bytes, 5);
  d.topology = topology_json(cpus, threads);
  return d;
}

listed describe(const cuda::gpu& g) {
  listed d;
  d.name = fmt::format("cuda:{}", g.index);
  d.what = fmt::format("{}, {} multiprocessors, {}", g.name, g.processors, g.architecture);
  d.memory = g.memory_bytes;
  d.free = g.free_bytes;
  d.bandwidth = g.bandwidth;
  d.problem = g.problem;
  for (const int p : g.peers)
    d.peers.push_back(fmt::format("cuda:{}", p));
  return d;
}

void show_json(const std::vector<listed>& devices, const std::string& none_because, command_context& env) {
  json out = {{"devices", json::array()}};
  for (const listed& d : devices) {
    out["devices"].push_back({{"name", d.name},
                              {"what", d.what},
                              {"memory_bytes", d.memory},
                              {"free_bytes", d.free},
                              {"bandwidth_bytes_s", measured(d.bandwidth)},
                              {"usable", d.problem.empty()},
                              {"peers", d.peers}});
    if (!d.limit.set_by.empty()) {
      out["devices"].back()["limit_bytes"] = d.limit.bytes;
      out["devices"].back()["limit_set_by"] = d.limit.set_by;
    }
    if (!d.topology.is_null())
      out["devices"].back()["topology"] = d.topology;
    if (!d.problem.empty())
      out["devices"].back()["problem"] = d.problem;
  }
  if (!none_because.empty())
    out["no_gpu_because"] = none_because;
  env.out.write(out.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

void show(const std::vector<listed>& devices, const std::string& host_lines, const std::string& none_because,
          command_context& env) {
  table t{{{"device"}, {"what"}, {"memory", true}, {"free", true}, {"bandwidth", true}, {""}}, {}};
  for (const listed& d : devices) {
    std::string remark = d.problem;
    if (remark.empty() && !d.peers.empty())
      remark = fmt::format("reads from {} directly", fmt::join(d.peers, ", "));
    t.rows.push_back({d.name, escape(d.what), format_bytes(d.memory), format_bytes(d.free),
                      d.bandwidth > 0 ? fmt::format("{:.0f} GB/s", d.bandwidth * 1e-9) : "-", remark});
  }
  const terminal_facts terminal = inspect_terminal(STDOUT_FILENO);
  env.out.write(t.aligned(terminal.colour ? "\x1b[1m" : "", terminal.colour ? "\x1b[0m" : "") + "\n");
  for (const listed& d : devices)
    if (!d.limit.set_by.empty())
      env.out.write(fmt::format("{} may use {}, set by {}\n", d.name, format_bytes(d.limit.bytes), d.limit.set_by));
  env.out.write(host_lines);
  if (!none_because.empty())
    env.out.write(fmt::format("no GPU: {}\n", none_because));
}

} // namespace

command make_devices() {
  auto options = std::make_shared<devices_options>();
  return {
      .name = "devices",
      .summary = "list what tropilla can compute on",
      .help =
          {.about = "Lists what tropilla can compute on here: the host and its NVIDIA GPUs, by the names that "
                    "budgets take (host:0=1GiB, cuda:0=8GiB).",
           .usage = "tropilla devices [options]",
           .notes =
               "memory is what the machine or its control group has, free what is left of it now; what a run may use "
               "is less by what the program needs besides, and an address space that is limited (ulimit -v) counts, "
               "too. "
               "Cores, caches and NUMA nodes are those that the process may use: taskset and cpusets "
               "count. The host's bandwidth is that of reading, measured in about 0.1 s; a GPU's is its memory's, by "
               "clock and width. One host device is all of the host: host:0=1GiB,host:1=1GiB makes two of "
               "it.",
           .example = "  tropilla devices --json"},
      .bind = [options](option_binder& b) { options->bind(b); },
      .execute =
          [options](command_context& env) {
            const auto cpus = host::read_topology(host::topology_detail::all);
            const std::size_t threads = host::usable_cores(cpus);
            std::vector<listed> devices{describe_host(cpus, threads)};
            const auto gpus = cuda::list_gpus();
            for (const auto& g : gpus.gpus)
              devices.push_back(describe(g));
            if (options->json)
              show_json(devices, gpus.none_because, env);
            else
              show(devices, topology_lines(cpus, threads), gpus.none_because, env);
          }};
}

} // namespace tropilla::app
