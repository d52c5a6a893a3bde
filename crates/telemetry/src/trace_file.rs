//! A file of spans in OTLP's JSON, one export request a line:
//! <https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/>.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SpanData, SpanExporter},
};

/// A file that takes spans, of several services if need be. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TraceFile {
    path: Arc<Path>,
    writer: Arc<Mutex<BufWriter<File>>>,
}

impl TraceFile {
    /// Makes the file anew.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let writer = Arc::new(Mutex::new(BufWriter::new(File::create(&path)?)));
        Ok(Self { path: path.into(), writer })
    }

    fn write(&self, request: &ExportTraceServiceRequest) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_writer(&mut *writer, request)?;
        writer.write_all(b"\n")?;
        writer.flush()
    }
}

impl fmt::Display for TraceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// Writes the spans of one service into a file.
#[derive(Debug)]
pub(crate) struct FileExporter {
    file: TraceFile,
    resource: ResourceAttributesWithSchema,
}

impl FileExporter {
    pub(crate) fn new(file: TraceFile) -> Self {
        Self { file, resource: ResourceAttributesWithSchema::default() }
    }
}

impl SpanExporter for FileExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let written = self.file.write(&ExportTraceServiceRequest { resource_spans });
        written.map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
