#include "options.h"

#include <cstdio>
#include <cstdlib>

namespace mock {
namespace {

bool apply_to_ranks(RankFaults& ranks, const std::string& key, const std::string& value) {
  const char* text = value.c_str();
  if (key == "absent") return ranks.absent = atoi(text), true;
  if (key == "die") return sscanf(text, "%d:%d", &ranks.dead, &ranks.dead_from) == 2;
  if (key == "comm_error") return sscanf(text, "%d:%d=%d", &ranks.failed, &ranks.failed_at, &ranks.failed_with) == 3;
  if (key == "death") {
    using Told = RankFaults::Told;
    static const std::map<std::string, Told> who = {
        {"silent", Told::kNobody}, {"neighbours", Told::kNeighbours}, {"remote", Told::kAll}};
    const auto found = who.find(value);
    if (found == who.end()) return false;
    return ranks.told = found->second, true;
  }
  return false;
}

}  // namespace

bool Options::apply(const std::string& word) {
  const size_t equals = word.find('=');
  if (equals == std::string::npos) return false;
  const std::string key = word.substr(0, equals), value = word.substr(equals + 1);
  const uint64_t number = strtoull(value.c_str(), nullptr, 10);
  if (key == "seed") return seed = number, true;
  if (key == "deadlock_s") return deadlock_s = atof(value.c_str()), true;
  if (key == "processes_s") return processes_s = atof(value.c_str()), true;
  if (key == "memory_bytes") return memory_bytes = number, true;
  if (key == "devices") return devices = static_cast<int>(number), true;
  if (key == "capability") return capability = static_cast<int>(number), true;
  if (key == "sms") return sms = static_cast<int>(number), true;
  if (key == "record") return record = number != 0, true;
  if (key == "check") return check = number != 0, true;
  if (key == "resident") return resident = static_cast<int>(number), true;
  if (key == "share_device") return share_device = number != 0, true;
  if (key == "nccl_version") return nccl_version = static_cast<int>(number), true;
  if (key == "in_progress") return in_progress = atoi(value.c_str()), true;
  if (key == "windows") return windows = number != 0, true;
  if (key == "abort") return abort_waits = value == "waits", value == "waits" || value == "returns";
  if (key == "hang") return hang = value, true;
  if (key == "host") return host_threads = value == "thread", value == "thread" || value == "one";
  if (key == "mode") {
    static const std::map<std::string, Mode> modes = {
        {"late", Mode::kLate}, {"random", Mode::kRandom}, {"eager", Mode::kEager}, {"threads", Mode::kThreads}};
    const auto found = modes.find(value);
    if (found == modes.end()) return false;
    return mode = found->second, true;
  }
  if (key == "fail") {  // NAME:NTH=ERROR
    const size_t colon = value.find(':'), second = value.rfind('=');
    if (colon == std::string::npos || second == std::string::npos || second < colon) return false;
    const std::string nth = value.substr(colon + 1, second - colon - 1), error = value.substr(second + 1);
    faults[value.substr(0, colon)] = {atoi(nth.c_str()), atoi(error.c_str())};
    return true;
  }
  return apply_to_ranks(ranks, key, value);
}

int Options::occurs(const std::string& name) {
  const int count = ++occurrences[name];
  const auto fault = faults.find(name);
  return fault != faults.end() && fault->second.nth == count ? fault->second.error : 0;
}

}  // namespace mock
