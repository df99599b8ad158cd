namespace Scalpel;

/// <summary>
/// Something the user gave cannot be used: a file, a key, an option, a destination. The message is one sentence that names
/// the subject, what was found, what was expected and the way out; the command line prints it as it is and exits with 2.
/// </summary>
public class BadInputException : Exception
{
    /// <summary>Creates the error with its one sentence.</summary>
    public BadInputException(string message) : base(message) { }

    /// <summary>Creates the error with its one sentence and the failure behind it.</summary>
    public BadInputException(string message, Exception inner) : base(message, inner) { }
}

/// <summary>A check of the user's did not hold: a hash differs, a claim fails, a parity case is off. Exit code 1.</summary>
public class CheckFailedException(string message) : Exception(message);
