// Streams a recording through an exported graph: JPEGs, calibration and headset poses in, joints out.
//
//   recording GRAPH.onnx RECORDING JOINTS.csv
//
// RECORDING is a folder in the layout of docs/own_data.md with headset.yaml in it or above it, cam*/sensor.yaml with
// max_angle_rad, JPEGs, and gt/data.csv; `epfv2_jax.synthesize --rig` writes such folders. JOINTS.csv has the form of
// joints0/data.csv in the recording's world with y up. Exit status: 0, or 2 for an error.
#include <yaml-cpp/yaml.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>

#include "camera.h"
#include "picture.h"
#include "pose_stream.h"
#include "track.h"

namespace {

namespace fs = std::filesystem;

// One view of the headset, brought to the graph's image size and turned upright.
struct View {
  fs::path folder;
  int turns;
  Camera camera;
  Matrix T_cam_headset;
  std::vector<int64_t> stamps_ns;
  std::vector<std::string> files;
};

// What headset.yaml says of time and axes.
struct Headset {
  Matrix T_yup_world, T_body_headset;
  double max_pose_gap_ms, max_skew_ms;
  YAML::Node views;
};

Headset read_headset(const fs::path& recording) {
  for (fs::path place = fs::absolute(recording); place != place.root_path(); place = place.parent_path()) {
    if (!fs::exists(place / "headset.yaml")) continue;
    const YAML::Node file = YAML::LoadFile((place / "headset.yaml").string());
    std::vector<double> body;
    for (const auto& row : file["T_headset_body"]) {
      for (const auto& value : row) body.push_back(value.as<double>());
    }
    return {yup_from(file["world_up"].as<std::string>("y")), inverse(matrix_of(body)),
            file["max_pose_gap_ms"].as<double>(20), file["max_skew_ms"].as<double>(5), file["views"]};
  }
  throw std::runtime_error(recording.string() + ": no headset.yaml here or above");
}

// The views in the graph's order. The calibration becomes inputs once: it is the same for all frames.
std::vector<View> open_views(const fs::path& mav0, const Headset& headset, const PoseStream& stream) {
  const auto names = YAML::Load(stream.metadata("camera_order")).as<std::vector<std::string>>();
  const auto model = YAML::Load(stream.metadata("camera_model")).as<std::string>();
  const auto& shape = stream.inputs[PoseStream::find(stream.inputs, "images")].shape;  // (1, V, H, W)
  if (shape[0] != 1) throw std::runtime_error("the graph has " + std::to_string(shape[0]) + " streams: export one");
  std::vector<View> views;
  for (const std::string& name : names) {
    for (const auto& described : headset.views) {
      if (described["name"].as<std::string>() != name) continue;
      View view{mav0 / described["camera"].as<std::string>(), described["upright_turns"].as<int>(0), {}, {}, {}, {}};
      Matrix T_body_cam;
      std::tie(view.camera, T_body_cam) = read_sensor((view.folder / "sensor.yaml").string());
      if (view.camera.model != model) {
        throw std::runtime_error(view.folder.string() + ": lens model " + view.camera.model + ", the graph has " + model);
      }
      view.T_cam_headset = product(inverse(T_body_cam), headset.T_body_headset);
      for (int turn = 0; turn < (view.turns % 4 + 4) % 4; ++turn) turn_quarter(view.camera, view.T_cam_headset);
      resize(view.camera, static_cast<int>(shape[3]), static_cast<int>(shape[2]));
      for (const auto& row : read_rows((view.folder / "data.csv").string(), 2)) {
        view.stamps_ns.push_back(std::stoll(row[0]));
        view.files.push_back(row[1]);
      }
      views.push_back(view);
    }
  }
  if (views.size() != names.size()) throw std::runtime_error("headset.yaml does not name all views of the graph");
  return views;
}

// The inputs of the graph by name, one after the other in C order.
struct Inputs {
  std::vector<float> T_world_headset, focal_px, center_px, radial, tangential, thin_prism, max_angle_rad, T_cam_headset;
  std::vector<unsigned char> images, view_valid;
  std::vector<int32_t> frame_gap = {1};

  Inputs(const std::vector<View>& views, size_t pixels) : T_world_headset(16), images(views.size() * pixels) {
    view_valid.resize(views.size());
    for (const View& view : views) {
      const Camera& camera = view.camera;
      focal_px.insert(focal_px.end(), camera.focal_px.begin(), camera.focal_px.end());
      center_px.insert(center_px.end(), camera.center_px.begin(), camera.center_px.end());
      radial.insert(radial.end(), camera.radial.begin(), camera.radial.end());
      tangential.insert(tangential.end(), camera.tangential.begin(), camera.tangential.end());
      thin_prism.insert(thin_prism.end(), camera.thin_prism.begin(), camera.thin_prism.end());
      max_angle_rad.push_back(static_cast<float>(camera.max_angle_rad));
      T_cam_headset.insert(T_cam_headset.end(), view.T_cam_headset.begin(), view.T_cam_headset.end());
    }
  }

  void bind_to(PoseStream& stream) {
    bind(stream, "images", images);
    bind(stream, "view_valid", view_valid);
    bind(stream, "T_world_headset", T_world_headset);
    bind(stream, "frame_gap", frame_gap);
    bind(stream, "focal_px", focal_px);
    bind(stream, "center_px", center_px);
    bind(stream, "radial", radial);
    bind(stream, "tangential", tangential);
    bind(stream, "thin_prism", thin_prism);
    bind(stream, "max_angle_rad", max_angle_rad);
    bind(stream, "T_cam_headset", T_cam_headset);
  }

 private:
  template <typename T>
  static void bind(PoseStream& stream, const char* name, std::vector<T>& values) {
    const size_t input = PoseStream::find(stream.inputs, name);
    if (stream.inputs[input].bytes != values.size() * sizeof(T)) {
      throw std::runtime_error(std::string(name) + ": the recording has another number of values than the graph");
    }
    stream.bind(input, values.data());
  }
};

// Puts a view's image nearest in time among the inputs; says whether there is a usable one.
bool load(const View& view, int64_t stamp_ns, double max_skew_ms, unsigned char* target) {
  const size_t row = nearest(view.stamps_ns, stamp_ns);
  const int width = static_cast<int>(view.camera.size_px[0]), height = static_cast<int>(view.camera.size_px[1]);
  if (std::abs(view.stamps_ns[row] - stamp_ns) <= max_skew_ms * 1e6) {
    try {
      const Picture stored = read_jpeg((view.folder / "data" / view.files[row]).string());
      const Picture picture = upright(stored, view.turns, width, height);
      std::copy(picture.grey.begin(), picture.grey.end(), target);
      return true;
    } catch (const std::exception& error) {  // a bad image is a missing one
      std::fprintf(stderr, "%s\n", error.what());
    }
  }
  std::fill(target, target + width * height, static_cast<unsigned char>(0));
  return false;
}

void run(const std::string& graph, const fs::path& recording, const std::string& out) {
  PoseStream stream(graph);
  const fs::path mav0 = fs::exists(recording / "mav0") ? recording / "mav0" : recording;
  const Headset headset = read_headset(mav0);
  const std::vector<View> views = open_views(mav0, headset, stream);
  const PoseTrack poses((mav0 / "gt" / "data.csv").string());
  const std::vector<int64_t>& frames_ns = views[0].stamps_ns;  // its images are the frames
  const size_t pixels = static_cast<size_t>(views[0].camera.size_px[0] * views[0].camera.size_px[1]);
  Inputs inputs(views, pixels);
  inputs.bind_to(stream);

  std::ofstream file(out);
  file << "#timestamp [ns]";
  for (const auto& name : YAML::Load(stream.metadata("joint_names")).as<std::vector<std::string>>()) {
    for (const char axis : {'x', 'y', 'z'}) file << "," << name << "_" << axis << " [m]";
  }
  file << "\n";
  file.precision(9);
  const size_t joints = PoseStream::find(stream.outputs, "joints_world_m");
  const double frame_ns = median_step_ns(frames_ns);
  int64_t before_ns = -1;
  for (const int64_t stamp_ns : frames_ns) {
    if (!poses.is_near(stamp_ns, headset.max_pose_gap_ms * 1e6)) continue;  // the next frame has a larger gap
    const Matrix T = product(headset.T_yup_world, product(poses.at(stamp_ns), headset.T_body_headset));
    std::copy(T.begin(), T.end(), inputs.T_world_headset.begin());
    for (size_t v = 0; v < views.size(); ++v) {
      inputs.view_valid[v] = load(views[v], stamp_ns, headset.max_skew_ms, inputs.images.data() + v * pixels);
    }
    const double gap = before_ns < 0 ? 1 : std::nearbyint((stamp_ns - before_ns) / frame_ns);
    inputs.frame_gap[0] = std::max(1, static_cast<int>(gap));
    before_ns = stamp_ns;
    stream.step();
    file << stamp_ns;
    const auto* found = reinterpret_cast<const float*>(stream.read(joints));
    for (size_t i = 0; i < stream.outputs[joints].bytes / sizeof(float); ++i) file << "," << found[i];
    file << "\n";
  }
  if (!file.flush()) throw std::runtime_error(out + ": cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: recording GRAPH.onnx RECORDING JOINTS.csv\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
