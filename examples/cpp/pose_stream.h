// Runs an exported graph frame by frame and keeps the state of its stream.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// An input or output of the graph.
struct Port {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
  size_t bytes;

  // numpy's name of the elements' type.
  const char* dtype() const {
    switch (type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "<f4";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "|u1";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "|b1";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "<i4";
      default: throw std::runtime_error(name + " is of a type that this example does not know");
    }
  }
};

// One stream. For each frame: bind every input that is not state, step, read outputs.
class PoseStream {
 public:
  explicit PoseStream(const std::string& graph) : session_(nullptr) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    session_ = Ort::Session(env_, std::basic_string<ORTCHAR_T>(graph.begin(), graph.end()).c_str(), options);
    for (size_t i = 0; i < session_.GetInputCount(); ++i) {
      inputs.push_back(describe(session_.GetInputNameAllocated(i, allocator_).get(), session_.GetInputTypeInfo(i)));
    }
    for (size_t o = 0; o < session_.GetOutputCount(); ++o) {
      outputs.push_back(describe(session_.GetOutputNameAllocated(o, allocator_).get(), session_.GetOutputTypeInfo(o)));
    }
    values_.resize(inputs.size());
    for (size_t o = 0; o < outputs.size(); ++o) {  // the output next_NAME becomes the input NAME of the next frame
      if (outputs[o].name.compare(0, 5, "next_") != 0) continue;
      const size_t i = find(inputs, outputs[o].name.substr(5));
      state.emplace_back(o, i);
      values_[i] = Ort::Value::CreateTensor(allocator_, inputs[i].shape.data(), inputs[i].shape.size(), inputs[i].type);
      std::memset(values_[i].GetTensorMutableRawData(), 0, inputs[i].bytes);  // before the first frame
    }
  }

  // Uses memory of the caller, as it is at the step, for an input; it must hold as many bytes as the port says.
  void bind(size_t input, void* data) {
    const Port& port = inputs[input];
    values_[input] =
        Ort::Value::CreateTensor(memory_, data, port.bytes, port.shape.data(), port.shape.size(), port.type);
  }

  // Computes one frame.
  void step() {
    std::vector<const char*> input_names, output_names;
    for (const Port& port : inputs) input_names.push_back(port.name.c_str());
    for (const Port& port : outputs) output_names.push_back(port.name.c_str());
    for (auto& [o, i] : moved_) values_[i] = std::move(results_[o]);  // the cache moves, it is not copied
    results_ = session_.Run(Ort::RunOptions{nullptr}, input_names.data(), values_.data(), values_.size(),
                            output_names.data(), output_names.size());
    moved_ = state;
  }

  // An output of the last step, in C order.
  const char* read(size_t output) const { return static_cast<const char*>(results_[output].GetTensorRawData()); }

  // A text of the graph's metadata, JSON.
  std::string metadata(const char* key) const {
    const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator_);
    if (!text) throw std::runtime_error(std::string("the graph's metadata have no ") + key);
    return text.get();
  }

  bool is_state(size_t input) const {
    return std::any_of(state.begin(), state.end(), [&](const auto& pair) { return pair.second == input; });
  }

  // The place of a name among ports.
  static size_t find(const std::vector<Port>& ports, const std::string& name) {
    const auto found = std::find_if(ports.begin(), ports.end(), [&](const Port& port) { return port.name == name; });
    if (found == ports.end()) throw std::runtime_error("the graph has no " + name);
    return found - ports.begin();
  }

  std::vector<Port> inputs, outputs;
  std::vector<std::pair<size_t, size_t>> state;  // output and input that hold the same part of it

 private:
  static Port describe(std::string name, const Ort::TypeInfo& type_info) {
    const auto info = type_info.GetTensorTypeAndShapeInfo();
    Port port{std::move(name), info.GetElementType(), info.GetShape(), 0};
    port.bytes = info.GetElementCount() * std::stoul(port.dtype() + 2);
    return port;
  }

  Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "epfv2"};
  mutable Ort::AllocatorWithDefaultOptions allocator_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Session session_;
  std::vector<Ort::Value> values_, results_;
  std::vector<std::pair<size_t, size_t>> moved_;  // of the last step's results, to the inputs of the next
};
