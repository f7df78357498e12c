// Streams the golden sequence through the exported graph, frame by frame, and compares it with what JAX computed.
//
//   stream GRAPH.onnx [GOLDEN.npz]       default: GRAPH.golden.npz, which the export wrote beside it
//
// The graph is one step: its outputs next_* are the state that the next step takes under the same names without next_.
// Exit status: 0 if every output is within the tolerance that the golden sequence states, 1 if not, 2 for an error.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "npz.h"
#include "pose_stream.h"

namespace {

double number_at(const char* data, size_t i, const std::string& dtype) {
  if (dtype == "<f4") return reinterpret_cast<const float*>(data)[i];
  if (dtype == "<f8") return reinterpret_cast<const double*>(data)[i];
  if (dtype == "<i4") return reinterpret_cast<const int32_t*>(data)[i];
  return static_cast<unsigned char>(data[i]);
}

// The largest difference of an output from the golden array's frame; infinite where one of them is no number.
double largest_difference(const char* found, const Array& golden, const Port& port, size_t frame) {
  const std::string dtype = port.dtype();
  const size_t count = port.bytes / std::stoul(dtype.substr(2));
  double largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const double expected = number_at(golden.bytes.data(), frame * count + i, dtype);
    const double difference = std::abs(number_at(found, i, dtype) - expected);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

// The golden array of a name; it must be of the graph's type and, beyond its first `leading` axes, of its shape.
Array* find(std::map<std::string, Array>& golden, const std::string& name, const Port& port, size_t leading) {
  const auto found = golden.find(name);
  if (found == golden.end()) return nullptr;
  const Array& array = found->second;
  const bool enough = array.shape.size() >= leading;
  if (!enough || array.dtype != port.dtype() ||
      std::vector<int64_t>(array.shape.begin() + leading, array.shape.end()) != port.shape) {
    throw std::runtime_error(name + " has another type or shape than in the graph");
  }
  return &found->second;
}

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * (values.size() - 1) + 0.5)];
}

int run(const std::string& graph, const std::string& golden_path) {
  auto golden = read_npz(golden_path);
  PoseStream stream(graph);
  const auto &inputs = stream.inputs, &outputs = stream.outputs;

  size_t frames = 0;
  std::vector<std::pair<size_t, Array*>> given, compared, last;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (stream.is_state(i)) continue;
    if (Array* array = find(golden, "calibration/" + inputs[i].name, inputs[i], 0)) {
      stream.bind(i, array->bytes.data());
    } else if ((array = find(golden, "inputs/" + inputs[i].name, inputs[i], 1))) {
      given.emplace_back(i, array);
      frames = array->shape[0];
    } else {
      throw std::runtime_error(golden_path + " has no inputs/" + inputs[i].name);
    }
  }
  for (size_t o = 0; o < outputs.size(); ++o) {
    if (Array* array = find(golden, "outputs/" + outputs[o].name, outputs[o], 1)) compared.emplace_back(o, array);
  }
  for (const auto& [o, i] : stream.state) {
    if (Array* array = find(golden, "final/" + inputs[i].name, outputs[o], 0)) last.emplace_back(o, array);
  }
  for (const auto* arrays : {&given, &compared}) {
    for (const auto& [port, array] : *arrays) {
      if (array->shape[0] == static_cast<int64_t>(frames)) continue;
      throw std::runtime_error("not all arrays have as many frames");
    }
  }
  if (frames == 0 || compared.empty()) throw std::runtime_error(golden_path + " holds no frames to compare");

  std::vector<double> latency_ms;
  std::vector<double> largest(outputs.size(), 0.0);
  for (size_t t = 0; t < frames; ++t) {
    for (auto& [i, array] : given) stream.bind(i, array->bytes.data() + t * inputs[i].bytes);
    const auto start = std::chrono::steady_clock::now();
    stream.step();
    latency_ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    for (auto& [o, array] : compared) {
      largest[o] = std::max(largest[o], largest_difference(stream.read(o), *array, outputs[o], t));
    }
  }
  for (auto& [o, array] : last) largest[o] = largest_difference(stream.read(o), *array, outputs[o], 0);

  bool good = true;
  compared.insert(compared.end(), last.begin(), last.end());
  for (const auto& [o, array] : compared) {
    const auto tolerance = golden.find("tolerance/" + outputs[o].name);
    if (tolerance == golden.end()) throw std::runtime_error(golden_path + " has no tolerance/" + outputs[o].name);
    const double allowed = number_at(tolerance->second.bytes.data(), 0, tolerance->second.dtype);
    const bool within = largest[o] <= allowed;
    good = good && within;
    std::printf("%-30s differs by %.3g, allowed %.3g%s\n", outputs[o].name.c_str(), largest[o], allowed,
                within ? "" : "  FAILED");
  }
  std::printf("%zu frames, 1 thread: p50 %.2f ms, p99 %.2f ms\n", frames, percentile(latency_ms, 0.5),
              percentile(latency_ms, 0.99));
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: stream GRAPH.onnx [GOLDEN.npz]\n");
    return 2;
  }
  try {
    const auto beside = std::filesystem::path(argv[1]).replace_extension(".golden.npz");
    return run(argv[1], argc == 3 ? argv[2] : beside.string());
  } catch (const std::exception& error) {  // Ort::Exception is one too
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
