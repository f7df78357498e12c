// Runs an exported graph frame by frame and keeps the state of its stream. Nothing in here is Unity's.
using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;

namespace Epfv2
{
    /// <summary>One stream. Bind a buffer to every input once; then, for each frame: fill them, Step, Read.</summary>
    public sealed class PoseStream : IDisposable
    {
        // The output next_NAME is the state that the next step takes as NAME; all zeros before the first frame.
        private const string Next = "next_";

        private readonly InferenceSession session;
        private readonly RunOptions runOptions = new RunOptions();
        private readonly string[] inputNames;
        private readonly string[] outputNames;
        private readonly OrtValue[] inputs; // in the order of inputNames; null where nothing is bound yet
        private readonly List<OrtValue> empty = new List<OrtValue>(); // the state of a stream that has seen nothing
        private IDisposableReadOnlyCollection<OrtValue> outputs; // of the last step; it owns the state

        /// <summary>Opens the graph that epfv2_jax.export wrote, on the CPU.</summary>
        public PoseStream(string path, int threads = 1)
        {
            using (var options = new SessionOptions { IntraOpNumThreads = threads })
            {
                session = new InferenceSession(path, options);
            }
            inputNames = session.InputMetadata.Keys.ToArray();
            outputNames = session.OutputMetadata.Keys.ToArray();
            inputs = new OrtValue[inputNames.Length];
            Reset();
        }

        /// <summary>Type and shape of each input that the caller binds.</summary>
        public IEnumerable<KeyValuePair<string, NodeMetadata>> Inputs =>
            session.InputMetadata.Where(pair => !session.OutputMetadata.ContainsKey(Next + pair.Key));

        /// <summary>Type and shape of each output, the next state included.</summary>
        public IReadOnlyDictionary<string, NodeMetadata> Outputs => session.OutputMetadata;

        /// <summary>Uses the buffer, as it is at each step, for an input: float, byte (uint8), int or bool.</summary>
        public void Bind<T>(string name, T[] buffer) where T : unmanaged
        {
            int i = Array.IndexOf(inputNames, name);
            if (i < 0 || !Inputs.Any(pair => pair.Key == name))
            {
                throw new ArgumentException($"{name}: the graph takes {string.Join(", ", Inputs.Select(p => p.Key))}");
            }
            NodeMetadata port = session.InputMetadata[name];
            if (port.ElementType != typeof(T) || buffer.Length != Count(port))
            {
                string shape = string.Join("x", port.Dimensions);
                throw new ArgumentException($"{name}: needs {port.ElementType.Name} {shape}, got {typeof(T).Name} {buffer.Length}");
            }
            inputs[i]?.Dispose();
            inputs[i] = OrtValue.CreateTensorValueFromMemory(buffer, Shape(port));
        }

        /// <summary>Computes one frame from what lies in the bound buffers.</summary>
        public void Step()
        {
            int unbound = Array.IndexOf(inputs, null);
            if (unbound >= 0)
            {
                throw new InvalidOperationException($"{inputNames[unbound]}: no buffer is bound to this input");
            }
            var results = session.Run(runOptions, inputNames, inputs, outputNames);
            for (int o = 0; o < outputNames.Length; ++o)
            {
                if (outputNames[o].StartsWith(Next, StringComparison.Ordinal))
                {
                    inputs[Array.IndexOf(inputNames, outputNames[o].Substring(Next.Length))] = results[o];
                }
            }
            outputs?.Dispose(); // the state of the step before
            outputs = results;
        }

        /// <summary>An output of the last step, in C order; valid until the next one.</summary>
        public ReadOnlySpan<T> Read<T>(string name) where T : unmanaged
        {
            int o = Array.IndexOf(outputNames, name);
            if (o < 0 || outputs == null)
            {
                throw new ArgumentException($"{name}: no output of a step; there are {string.Join(", ", outputNames)}");
            }
            return outputs[o].GetTensorDataAsSpan<T>();
        }

        /// <summary>Starts a new stream: of another person, or after tracking was lost.</summary>
        public void Reset()
        {
            foreach (OrtValue value in empty) value.Dispose();
            empty.Clear();
            for (int i = 0; i < inputNames.Length; ++i)
            {
                if (!session.OutputMetadata.ContainsKey(Next + inputNames[i])) continue;
                NodeMetadata port = session.InputMetadata[inputNames[i]];
                inputs[i] = Zeros(port);
                empty.Add(inputs[i]);
            }
        }

        public void Dispose()
        {
            foreach (OrtValue value in inputs) value?.Dispose();
            foreach (OrtValue value in empty) value.Dispose();
            outputs?.Dispose();
            runOptions.Dispose();
            session.Dispose();
        }

        private static OrtValue Zeros(NodeMetadata port)
        {
            if (port.ElementType == typeof(float)) return OrtValue.CreateTensorValueFromMemory(new float[Count(port)], Shape(port));
            if (port.ElementType == typeof(int)) return OrtValue.CreateTensorValueFromMemory(new int[Count(port)], Shape(port));
            if (port.ElementType == typeof(bool)) return OrtValue.CreateTensorValueFromMemory(new bool[Count(port)], Shape(port));
            throw new NotSupportedException($"state of type {port.ElementType.Name}");
        }

        private static int Count(NodeMetadata port) => port.Dimensions.Aggregate(1, (product, size) => product * size);

        private static long[] Shape(NodeMetadata port) => port.Dimensions.Select(size => (long)size).ToArray();
    }
}
