Console.WriteLine("scalpel");
