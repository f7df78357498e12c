// Reads the arrays that numpy.savez wrote: .npy members of a zip.
using System;
using System.Collections.Generic;
using System.IO;
using System.IO.Compression;
using System.Linq;
using System.Text;
using System.Text.RegularExpressions;

namespace Epfv2
{
    /// <summary>An array of numpy's, in C order.</summary>
    public sealed class NpyArray
    {
        public string Dtype; // numpy's, such as <f4
        public int[] Shape;
        public byte[] Bytes;

        /// <summary>Elements of one entry of the first axis, as numbers of type T.</summary>
        public T[] Entry<T>(int index) where T : unmanaged
        {
            int size = Bytes.Length / Shape[0];
            var values = new T[size / int.Parse(Dtype.Substring(2))];
            Buffer.BlockCopy(Bytes, index * size, values, 0, size);
            return values;
        }

        public double Scalar() => Dtype == "<f8" ? BitConverter.ToDouble(Bytes, 0) : BitConverter.ToSingle(Bytes, 0);
    }

    public static class Npz
    {
        private static readonly Regex Header = new Regex(
            @"'descr': '(?<dtype>[^']+)', 'fortran_order': (?<fortran>\w+), 'shape': \((?<shape>[^)]*)\)");

        /// <summary>The arrays of a file by name.</summary>
        public static Dictionary<string, NpyArray> Read(string path)
        {
            using (ZipArchive archive = ZipFile.OpenRead(path))
            {
                return archive.Entries.ToDictionary(entry => entry.FullName.Substring(0, entry.FullName.Length - 4), ReadMember);
            }
        }

        private static NpyArray ReadMember(ZipArchiveEntry entry)
        {
            var memory = new MemoryStream();
            using (Stream stream = entry.Open()) stream.CopyTo(memory);
            byte[] data = memory.ToArray();
            if (data.Length < 10 || data[0] != 0x93 || Encoding.ASCII.GetString(data, 1, 5) != "NUMPY" || data[6] != 1)
            {
                throw new InvalidDataException($"{entry.FullName}: no .npy array of version 1");
            }
            int start = 10 + BitConverter.ToUInt16(data, 8);
            Match header = Header.Match(Encoding.ASCII.GetString(data, 10, start - 10));
            if (!header.Success || header.Groups["fortran"].Value != "False")
            {
                throw new InvalidDataException($"{entry.FullName}: no array in C order");
            }
            string[] axes = header.Groups["shape"].Value.Split(new[] { ',', ' ' }, StringSplitOptions.RemoveEmptyEntries);
            return new NpyArray
            {
                Dtype = header.Groups["dtype"].Value,
                Shape = axes.Select(int.Parse).ToArray(),
                Bytes = data.Skip(start).ToArray(),
            };
        }
    }
}
