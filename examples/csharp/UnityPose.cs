#if UNITY_2021_2_OR_NEWER
// Moves one Transform for each joint by the poses of a stream. Call Open once; for each frame of the cameras write Images
// and ViewValid, then call Step.
using System.Collections.Generic;
using UnityEngine;

namespace Epfv2
{
    public sealed class UnityPose : MonoBehaviour
    {
        [Tooltip("In the order of joint_names in the graph's metadata")]
        public Transform[] joints;

        private PoseStream stream;
        private readonly float[] pose = new float[16];
        private readonly int[] frameGap = { 1 };

        /// <summary>Upright grey images, view after view, each row by row from the top.</summary>
        public byte[] Images { get; private set; }

        /// <summary>False where a camera delivered no usable image.</summary>
        public bool[] ViewValid { get; private set; }

        /// <summary>Opens a graph for one stream.</summary>
        /// <param name="calibration">The inputs focal_px ... T_cam_headset by name, in C order.</param>
        public void Open(string graphPath, IReadOnlyDictionary<string, float[]> calibration)
        {
            stream = new PoseStream(graphPath);
            foreach (var input in stream.Inputs)
            {
                int[] shape = input.Value.Dimensions; // (1, V, H, W) of images, (1, V) of view_valid
                if (input.Key == "images") Images = new byte[shape[1] * shape[2] * shape[3]];
                if (input.Key == "view_valid") ViewValid = new bool[shape[1]];
            }
            stream.Bind("images", Images);
            stream.Bind("view_valid", ViewValid);
            stream.Bind("T_world_headset", pose);
            stream.Bind("frame_gap", frameGap);
            foreach (var pair in calibration) stream.Bind(pair.Key, pair.Value);
        }

        /// <summary>Computes the pose of a frame and moves the joints.</summary>
        /// <param name="worldFromHeadset">Of the frame's time, as Unity has it: x right, y up, z forward.</param>
        /// <param name="gap">Frame times since the last step: 1, or more where frames were dropped.</param>
        public void Step(Matrix4x4 worldFromHeadset, int gap = 1)
        {
            // The graph's frames have x to the left: with S = diag(-1, 1, 1, 1), a pose T is S T S there.
            for (int row = 0; row < 4; ++row)
            {
                for (int column = 0; column < 4; ++column)
                {
                    float sign = (row == 0) == (column == 0) ? 1f : -1f;
                    pose[4 * row + column] = sign * worldFromHeadset[row, column];
                }
            }
            frameGap[0] = gap;
            stream.Step();
            var found = stream.Read<float>("joints_world_m");
            for (int j = 0; j < joints.Length; ++j)
            {
                joints[j].position = new Vector3(-found[3 * j], found[3 * j + 1], found[3 * j + 2]);
            }
        }

        private void OnDestroy() => stream?.Dispose();
    }
}
#endif
