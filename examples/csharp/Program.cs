// Streams the golden sequence through the exported graph, frame by frame, and compares it with what JAX computed.
//
//   dotnet run -- GRAPH.onnx [GOLDEN.npz]       default: GRAPH.golden.npz, which the export wrote beside it
//
// Exit status: 0 if every output is within the tolerance that the golden sequence states, 1 if not, 2 for an error.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace Epfv2
{
    public static class Program
    {
        public static int Main(string[] arguments)
        {
            if (arguments.Length < 1 || arguments.Length > 2)
            {
                Console.Error.WriteLine("usage: verify GRAPH.onnx [GOLDEN.npz]");
                return 2;
            }
            try
            {
                string beside = Path.ChangeExtension(arguments[0], ".golden.npz");
                return Verify(arguments[0], arguments.Length == 2 ? arguments[1] : beside) ? 0 : 1;
            }
            catch (Exception error)
            {
                Console.Error.WriteLine($"error: {error.Message}");
                return 2;
            }
        }

        private static bool Verify(string graph, string goldenPath)
        {
            Dictionary<string, NpyArray> golden = Npz.Read(goldenPath);
            using (var stream = new PoseStream(graph))
            {
                var fills = new List<Action<int>>();
                foreach (var input in stream.Inputs)
                {
                    NpyArray array = Find(golden, "inputs/" + input.Key);
                    Type type = input.Value.ElementType;
                    fills.Add(
                        type == typeof(float) ? Fill<float>(stream, input.Key, array)
                        : type == typeof(byte) ? Fill<byte>(stream, input.Key, array)
                        : type == typeof(int) ? Fill<int>(stream, input.Key, array)
                        : Fill<bool>(stream, input.Key, array));
                }
                string[] compared = stream.Outputs.Keys.Where(name => golden.ContainsKey("outputs/" + name)).ToArray();
                if (compared.Length == 0) throw new InvalidDataException($"{goldenPath}: holds no outputs to compare");
                Dictionary<string, double> largest = compared.ToDictionary(name => name, name => 0.0);
                int frames = golden["outputs/" + compared[0]].Shape[0];
                for (int t = 0; t < frames; ++t)
                {
                    foreach (Action<int> fill in fills) fill(t);
                    stream.Step();
                    foreach (string name in compared)
                    {
                        double difference = Difference(stream.Read<float>(name), golden["outputs/" + name].Entry<float>(t));
                        largest[name] = Math.Max(largest[name], difference);
                    }
                }
                bool good = true;
                foreach (string name in compared)
                {
                    double allowed = Find(golden, "tolerance/" + name).Scalar();
                    bool within = largest[name] <= allowed;
                    good = good && within;
                    Console.WriteLine($"{name,-30} differs by {largest[name]:g3}, allowed {allowed:g3}{(within ? "" : "  FAILED")}");
                }
                Console.WriteLine($"{frames} frames");
                return good;
            }
        }

        // Binds a buffer to an input; returns what puts a frame of the golden array into it.
        private static Action<int> Fill<T>(PoseStream stream, string name, NpyArray array) where T : unmanaged
        {
            var buffer = new T[array.Entry<T>(0).Length];
            stream.Bind(name, buffer);
            return t => array.Entry<T>(t).CopyTo(buffer, 0);
        }

        private static NpyArray Find(Dictionary<string, NpyArray> golden, string name)
        {
            return golden.TryGetValue(name, out NpyArray array) ? array : throw new InvalidDataException($"no {name}");
        }

        // The largest difference; infinite where one of two numbers is none, or the sizes differ.
        private static double Difference(ReadOnlySpan<float> found, float[] expected)
        {
            if (found.Length != expected.Length) return double.PositiveInfinity;
            double largest = 0;
            for (int i = 0; i < expected.Length; ++i)
            {
                double difference = Math.Abs((double)found[i] - expected[i]);
                largest = double.IsNaN(difference) ? double.PositiveInfinity : Math.Max(largest, difference);
            }
            return largest;
        }
    }
}
