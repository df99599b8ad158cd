using System.Globalization;
using System.Text;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Patterns;

/// <summary>A set of code points: ASCII by a bit map, the rest by the terms from which the set was written.</summary>
sealed class CodePointSet
{
    readonly List<Func<int, bool>> terms = [];
    readonly List<(int First, int Last)> ranges = [];
    int categories;
    ulong low, high;
    bool negated, ignoreCase, frozen;

    public static CodePointSet Of(int code, bool ignoreCase) => new CodePointSet { ignoreCase = ignoreCase }.Add(code, code).Freeze();

    public static CodePointSet Where(Func<int, bool> test) => new CodePointSet().Add(test).Freeze();

    public CodePointSet Add(int first, int last)
    {
        ranges.Add((first, last));
        return this;
    }

    public CodePointSet Add(Func<int, bool> test)
    {
        terms.Add(test);
        return this;
    }

    /// <summary>Adds categories, given as bits 1 &lt;&lt; category.</summary>
    public CodePointSet AddCategories(int bits)
    {
        categories |= bits;
        return this;
    }

    public CodePointSet Negate(bool negate = true)
    {
        negated = negate;
        return this;
    }

    public CodePointSet IgnoreCase(bool ignore)
    {
        ignoreCase = ignore;
        return this;
    }

    /// <summary>Ends the building.</summary>
    public CodePointSet Freeze()
    {
        for (int code = 0; code < 128; code++)
        {
            if (Evaluate(code))
            {
                if (code < 64)
                {
                    low |= 1UL << code;
                }
                else
                {
                    high |= 1UL << (code - 64);
                }
            }
        }

        frozen = true;
        return this;
    }

    public bool Contains(int code)
    {
        if (code < 128 && frozen)
        {
            return ((code < 64 ? low >> code : high >> (code - 64)) & 1) != 0;
        }

        return Evaluate(code);
    }

    bool Evaluate(int code)
    {
        bool found = Holds(code);
        if (!found && ignoreCase)
        {
            int folded = Fold(code);
            found = Holds(folded) || Holds(Upper(folded)) || (folded == 's' && Holds(0x17F)) || (folded == 'k' && Holds(0x212A));
        }

        return found != negated;
    }

    bool Holds(int code)
    {
        foreach ((int first, int last) in ranges)
        {
            if (code >= first && code <= last)
            {
                return true;
            }
        }

        if (categories != 0 && (categories >> (int)CodePoints.Category(code) & 1) != 0)
        {
            return true;
        }

        foreach (Func<int, bool> term in terms)
        {
            if (term(code))
            {
                return true;
            }
        }

        return false;
    }

    // Simple case folding: lower case, and the letters whose lower case is not their fold.
    static int Fold(int code) => code switch
    {
        0x17F => 's',
        0x212A => 'k',
        0x212B => 0xE5,
        0x3C2 => 0x3C3,
        0x1E9E => 0xDF,
        _ => Rune.IsValid(code) ? Rune.ToLowerInvariant(new Rune(code)).Value : code,
    };

    static int Upper(int code) => Rune.IsValid(code) ? Rune.ToUpperInvariant(new Rune(code)).Value : code;
}
