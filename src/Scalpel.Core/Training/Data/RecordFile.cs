using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using CsvHelper;
using Parquet;
using Parquet.Serialization;

namespace Scalpel.Training;

/// <summary>
/// The records of a file of training data, read one at a time: JSON lines, CSV or TSV with a heading, Parquet, or plain text
/// whose paragraphs are separated by empty lines. Only where each record begins is kept in memory, so that a file may be
/// larger than it. Formats without an index of their own are copied once, as JSON lines, to a file that the system deletes.
/// </summary>
public sealed class RecordFile : IDisposable
{
    const int LongestRecord = 1 << 28;
    static readonly UTF8Encoding StrictUtf8 = new(false, throwOnInvalidBytes: true);
    readonly string path, unit;
    readonly FileStream lines;
    readonly List<(long Offset, int Length, int Place)> index;

    RecordFile(string path, string unit, FileStream lines, List<(long, int, int)> index) => (this.path, this.unit, this.lines, this.index) = (path, unit, lines, index);

    /// <summary>Records in the file.</summary>
    public int Count => index.Count;

    /// <summary>Opens a file by the ending of its name: .jsonl or .ndjson, .csv, .tsv, .parquet, .txt or .md; others are taken for JSON lines.</summary>
    /// <exception cref="BadInputException">It cannot be read, or a record is malformed; the line or row is named.</exception>
    public static RecordFile Open(string path)
    {
        try
        {
            return Path.GetExtension(path).ToLowerInvariant() switch
            {
                ".csv" => Spooled(path, "line", write => ReadTable(path, ',', write)),
                ".tsv" => Spooled(path, "line", write => ReadTable(path, '\t', write)),
                ".parquet" => Spooled(path, "row", write => ReadParquet(path, write)),
                ".txt" or ".md" => Spooled(path, "line", write => ReadParagraphs(path, write)),
                _ => Lines(path),
            };
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be read: {e.Message.TrimEnd('.')}; give a file of JSON lines, CSV, Parquet or text.", e);
        }
    }

    /// <summary>Where a record stands, for a message: the file with its line or row.</summary>
    public string Where(int record) => $"{path}, {unit} {index[record].Place}";

    /// <summary>One record.</summary>
    /// <exception cref="BadInputException">It is no JSON object.</exception>
    public JsonObject Read(int record)
    {
        (long offset, int length, _) = index[record];
        byte[] bytes = new byte[length];
        lines.Position = offset;
        lines.ReadExactly(bytes);
        try
        {
            return JsonNode.Parse(bytes, documentOptions: new JsonDocumentOptions { MaxDepth = 32, AllowDuplicateProperties = false }) as JsonObject ?? throw new JsonException("it is another value");
        }
        catch (JsonException e)
        {
            throw new BadInputException(bytes[0] == '[' && record == 0
                ? $"{path} begins with a list; give one object a line (jq -c '.[]' turns a list into lines)."
                : $"{Where(record)} is not a JSON object: {e.Message.TrimEnd('.')}.", e);
        }
    }

    /// <summary>Closes the file.</summary>
    public void Dispose() => lines.Dispose();

    static RecordFile Lines(string path)
    {
        var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
        var index = new List<(long, int, int)>();
        byte[] buffer = new byte[1 << 16];
        long start = 0, position = 0;
        int place = 1;
        bool blank = true;
        void End(long end)
        {
            if (!blank)
            {
                index.Add((start, end - start <= LongestRecord ? (int)(end - start) : throw new BadInputException($"{path}, line {place} has {end - start} bytes; a record has at most {LongestRecord}."), place));
            }

            (start, blank) = (end + 1, true);
            place++;
        }

        for (int read; (read = file.Read(buffer)) > 0;)
        {
            for (int i = 0; i < read; i++, position++)
            {
                if (buffer[i] == '\n')
                {
                    End(position);
                }
                else if (position == 2 && index.Count == 0 && start == 0 && buffer is [0xEF, 0xBB, 0xBF, ..])
                {
                    (start, blank) = (3, true);
                }
                else
                {
                    blank &= buffer[i] is (byte)' ' or (byte)'\t' or (byte)'\r';
                }
            }
        }

        End(position);
        return new RecordFile(path, "line", file, index);
    }

    static RecordFile Spooled(string path, string unit, Action<Action<JsonObject, int>> read)
    {
        string name = Path.Combine(Path.GetTempPath(), $"scalpel-{Guid.NewGuid():n}.jsonl");
        var spool = new FileStream(name, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, 1 << 16, FileOptions.DeleteOnClose);
        try
        {
            var index = new List<(long, int, int)>();
            read((record, place) =>
            {
                byte[] bytes = JsonSerializer.SerializeToUtf8Bytes(record);
                index.Add((spool.Position, bytes.Length, place));
                spool.Write(bytes);
            });
            return new RecordFile(path, unit, spool, index);
        }
        catch
        {
            spool.Dispose();
            throw;
        }
    }

    static void ReadTable(string path, char separator, Action<JsonObject, int> write)
    {
        var options = new CsvReaderOptions
        {
            Separator = separator,
            HasHeader = true,
            TrackLineNumbers = true,
            MaxRecordSize = LongestRecord,
            MalformedData = CsvMalformedDataHandling.Throw,
            FieldCountMismatch = CsvFieldCountHandling.Throw,
        };
        int number = 0;
        try
        {
            using var text = new StreamReader(path, StrictUtf8);
            using CsvReader reader = CsvReader.Create(text, options, leaveOpen: true);
            while (reader.Read())
            {
                if (number++ == 0 && reader.Headers!.GroupBy(name => name).FirstOrDefault(group => group.Count() > 1) is { } twice)
                {
                    throw new BadInputException($"{path} has two columns of the name '{twice.Key}'; rename one.");
                }

                var record = new JsonObject();
                for (int i = 0; i < reader.FieldCount; i++)
                {
                    record[reader.Headers![i]] = reader.GetString(i);
                }

                write(record, (int)reader.LineNumber);
            }
        }
        catch (DecoderFallbackException e)
        {
            throw NotUtf8(path, number + 1, e);
        }
        catch (CsvFormatException e)
        {
            throw new BadInputException($"{path}, line {e.LineNumber} cannot be read: {e.Message.TrimEnd('.')}.", e);
        }
    }

    static BadInputException NotUtf8(string path, int line, Exception e) => new($"{path} is not UTF-8 text, at line {line} or soon after; convert it (iconv -t UTF-8).", e);

    static void ReadParagraphs(string path, Action<JsonObject, int> write)
    {
        var paragraph = new StringBuilder();
        int start = 0, number = 0;
        void End()
        {
            if (paragraph.Length > 0)
            {
                write(new JsonObject { ["text"] = paragraph.ToString() }, start);
                paragraph.Clear();
            }
        }

        foreach (string line in Read())
        {
            number++;
            if (string.IsNullOrWhiteSpace(line))
            {
                End();
                continue;
            }

            start = paragraph.Length == 0 ? number : start;
            paragraph.Append(paragraph.Length > 0 ? "\n" : "").Append(line);
        }

        End();

        IEnumerable<string> Read()
        {
            using var reader = new StreamReader(path, StrictUtf8);
            while (Next() is { } line)
            {
                yield return line;
            }

            string? Next()
            {
                try
                {
                    return reader.ReadLine();
                }
                catch (DecoderFallbackException e)
                {
                    throw NotUtf8(path, number + 1, e);
                }
            }
        }
    }

    static void ReadParquet(string path, Action<JsonObject, int> write)
    {
        try
        {
            using FileStream file = File.OpenRead(path);
            int groups;
            ParquetReader reader = ParquetReader.CreateAsync(file, null, true).GetAwaiter().GetResult();
            groups = reader.RowGroupCount;
            reader.DisposeAsync().AsTask().GetAwaiter().GetResult();
            int row = 0;
            for (int group = 0; group < groups; group++)
            {
                file.Position = 0;
                foreach (Dictionary<string, object> record in ParquetSerializer.DeserializeUntypedAsync(file, null, group).GetAwaiter().GetResult().Data)
                {
                    write((JsonObject)Node(record!)!, ++row);
                }
            }
        }
        catch (Exception e) when (e is not (BadInputException or IOException or UnauthorizedAccessException))
        {
            throw new BadInputException($"{path} is not a Parquet file that can be read: {e.Message.TrimEnd('.')}.", e);
        }
    }

    static JsonNode? Node(object? value) => value switch
    {
        null => null,
        string text => JsonValue.Create(text),
        IDictionary<string, object> map => new JsonObject(map.Select(pair => KeyValuePair.Create(pair.Key, Node(pair.Value)))),
        System.Collections.IEnumerable list => new JsonArray([.. list.Cast<object?>().Select(Node)]),
        bool flag => JsonValue.Create(flag),
        IConvertible number when number.GetTypeCode() is TypeCode.Single or TypeCode.Double or TypeCode.Decimal => JsonValue.Create(number.ToDouble(CultureInfo.InvariantCulture)),
        IConvertible number when number.GetTypeCode() is >= TypeCode.SByte and <= TypeCode.UInt64 => JsonValue.Create(number.ToInt64(CultureInfo.InvariantCulture)),
        _ => JsonValue.Create(Convert.ToString(value, CultureInfo.InvariantCulture)),
    };
}
