using System.Buffers.Binary;
using System.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints;

/// <summary>Writes .npy files, NumPy's format for one array.</summary>
public static class NumpyFile
{
    /// <summary>Writes a float32 tensor, row by row, atomically.</summary>
    /// <exception cref="ArgumentException">The tensor is of another type.</exception>
    /// <exception cref="BadInputException">The file cannot be written; an old one is untouched.</exception>
    public static void Write(string path, Tensor values, FileStore? store = null)
    {
        if (values.dtype != ScalarType.Float32)
        {
            throw new ArgumentException($"The tensor is {values.dtype}; float32 is expected.", nameof(values));
        }

        string shape = string.Concat(values.shape.Select(size => FormattableString.Invariant($"{size}, "))).TrimEnd(' ');
        string header = $"{{'descr': '<f4', 'fortran_order': False, 'shape': ({(values.dim() == 1 ? shape : shape.TrimEnd(','))}), }}";
        // Magic, version, length and header fill a multiple of 64 bytes; the last one is a line feed.
        header = header.PadRight((header.Length + 11 + 63) / 64 * 64 - 11) + "\n";
        byte[] start = [0x93, .. "NUMPY"u8, 1, 0, 0, 0, .. Encoding.ASCII.GetBytes(header)];
        BinaryPrimitives.WriteUInt16LittleEndian(start.AsSpan(8), (ushort)header.Length);
        AtomicFile.Write(path, stream =>
        {
            stream.Write(start);
            SafeTensorsWriter.WriteTensor(stream, values);
        }, store);
    }
}
