using Microsoft.AspNetCore.Components;
using Microsoft.AspNetCore.Components.Web;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Scalpel.Lab.Reports;

/// <summary>Renders reports to one self-contained HTML file: no script, no font, no picture from elsewhere.</summary>
public static class ReportWriter
{
    /// <summary>The whole page.</summary>
    public static string ToHtml(EditReport report)
    {
        using ServiceProvider services = new ServiceCollection().AddSingleton<ILoggerFactory>(NullLoggerFactory.Instance).BuildServiceProvider();
        using var renderer = new HtmlRenderer(services, NullLoggerFactory.Instance);
        // The components do no asynchronous work, so waiting is not blocking.
        return renderer.Dispatcher.InvokeAsync(async () =>
        {
            ParameterView parameters = ParameterView.FromDictionary(new Dictionary<string, object?> { [nameof(EditReportPage.Report)] = report });
            return "<!DOCTYPE html>\n" + (await renderer.RenderComponentAsync<EditReportPage>(parameters)).ToHtmlString();
        }).GetAwaiter().GetResult();
    }
}
